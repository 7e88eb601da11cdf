"""Begin the folder of a pseudo-labeled set, and finish it once every block is there."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from depth_anything_hf.data.whole_files import write_whole
from depth_anything_hf.labeling.arguments import Settings
from depth_anything_hf.labeling.plan import BlockId, missing_blocks
from depth_anything_hf.labeling.shards import PROGRESS, ShardFolder
from depth_anything_hf.labeling.sources import ImageSource
from depth_anything_hf.sharing.cards import CARD, MANIFEST, REJECTS, SETTINGS, dataset_card, may_write_card
from depth_anything_hf.version import __version__

_LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "Pillow")


def claim_folder(folder: ShardFolder, settings: Settings, is_main: bool = True) -> None:
    """Begin a folder, or check that it has these settings; only the main process writes.

    Raises:
        ValueError: The folder has other settings.
        FileExistsError: The folder contains other files.
    """
    begun = folder.path / SETTINGS
    if begun.exists():
        settings.check_same(json.loads(begun.read_text(encoding="utf-8")), folder.path)
    elif folder.path.exists() and any(not entry.name.startswith(".") for entry in folder.path.iterdir()):
        raise FileExistsError(f"{folder.path} contains files of another origin; choose a new or an empty folder.")
    if not is_main:
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    for left in folder.path.glob(".*.partial"):  # of a run that was killed
        left.unlink(missing_ok=True)
    _keep(begun, _json(settings.as_json()))  # first: it marks the folder as ours
    folder.prepare()
    for name, entry in folder.finished().items():
        if not _is_there(folder.path, entry):  # removed by someone, or lost by the disk: label it again
            (folder.path / PROGRESS / f"{name}.json").unlink()


def _is_there(folder: Path, entry: dict[str, Any]) -> bool:
    """Return True if the shard of a finished block exists in its full size."""
    shard = folder / (entry["file"] or "")
    return entry["file"] is None or (shard.is_file() and shard.stat().st_size == entry["bytes"])


def finish_folder(
    folder: ShardFolder, settings: Settings, source: ImageSource, licenses: dict[str, str]
) -> dict[str, Any]:
    """Check that no block is missing, write `rejects.jsonl`, the card and, last, `manifest.json`, and return the manifest.

    `licenses` has those of the teacher and of the images.

    Raises:
        ValueError: Blocks are missing.
    """
    entries = folder.finished()
    missing = missing_blocks(len(source.parts), entries)
    if missing:
        raise ValueError(
            f"{folder.path} is not finished: blocks {missing[:3]} and those after them are missing. A process ended "
            "early; repeat the same command to continue."
        )
    rejects = [reject for entry in entries.values() for reject in entry["rejects"]]
    manifest = _manifest(settings, entries, len(rejects), licenses)
    for name, entry in entries.items():
        if entry["unreadable"]:
            reason = entry["unreadable"].replace(os.path.join(os.path.abspath(source.name), ""), "")
            rejects.append({"key": source.parts[name.part], "reason": f"the rest of it: {reason}"})
    lines = "".join(json.dumps(reject) + "\n" for reject in rejects)
    _keep(folder.path / REJECTS, lines.encode())
    if may_write_card(folder.path):
        _keep(folder.path / CARD, str(dataset_card(folder.path.resolve().name, manifest)).encode())
    _keep(folder.path / MANIFEST, _json(manifest))
    return manifest


def _manifest(
    settings: Settings, entries: dict[BlockId, dict], rejected: int, licenses: dict[str, str]
) -> dict[str, Any]:
    return {
        "format": "depth_anything_hf pseudo-labels 1",
        **settings.as_json(),
        "licenses": licenses,
        "versions": {"depth_anything_hf": __version__} | {name: version(name) for name in _LIBRARIES},
        "inputs": sum(entry["inputs"] for entry in entries.values()),
        "labeled": sum(entry["labeled"] for entry in entries.values()),
        "rejected": rejected,
        "unreadable_files": sum(entry["unreadable"] is not None for entry in entries.values()),
        "shards": [
            {"file": entry["file"], "rows": entry["labeled"], "bytes": entry["bytes"], "sha256": entry["sha256"]}
            for entry in entries.values()
            if entry["file"]
        ],
    }


def _keep(file: Path, content: bytes) -> None:
    """Write a file, unless it has this content already."""
    if not file.exists() or file.read_bytes() != content:
        write_whole(file, content)


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
