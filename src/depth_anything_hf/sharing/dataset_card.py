"""The card of a pseudo-labelled set, and its way to the Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from depth_anything_hf.sharing.card import CARD
from depth_anything_hf.sharing.licenses import UNKNOWN, Source, license_of, license_text, settle_license
from depth_anything_hf.sharing.upload import upload_files

SETTINGS, MANIFEST, REJECTS, DATA = "settings.json", "manifest.json", "rejects.jsonl", "data"
TEMPLATE = Path(__file__).parent / "templates" / "dataset_card.md"


def dataset_card(name: str, manifest: dict[str, Any], license: str | None = None) -> DatasetCard:
    """Write the card of a finished set, with the licence that it inherits from the teacher and the images.

    Args:
        name: Of the set.
        manifest: Its own.
        license: As the user states it; left out, the inherited one.

    Returns:
        The card.

    Raises:
        ValueError: The stated licence allows what the teacher's or the images' forbids.
    """
    images, commit = manifest["source"], manifest["source_revision"]
    known = Path(images).is_dir() or re.fullmatch("[0-9a-f]{40}", commit or "")  # a folder, or a Hub data set
    sources = [
        Source("teacher", manifest["model"], license_of(manifest["model"])),
        Source("images", images, license_of(images, "dataset") if known else UNKNOWN),
    ]
    license = settle_license(license, sources)
    sizes = (("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6), ("1M<n<10M", 1e7),
             ("10M<n<100M", 1e8), ("100M<n<1B", float("inf")))  # fmt: skip
    data = DatasetCardData(
        license=license,
        task_categories=["depth-estimation"],
        size_categories=[next(label for label, limit in sizes if manifest["labeled"] < limit)],
        tags=["depth-anything", "pseudo-labels", "depth_anything_hf"],
        configs=[{"config_name": "default", "data_files": f"{DATA}/*.parquet"}],
        pretty_name=name,
    )
    told = ("inputs", "labeled", "rejected", "model", "model_revision", "source", "resolution", "dtype")
    return DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=name,
        **{key: manifest[key] for key in told},
        shards=len(manifest["shards"]),
        source_revision=manifest["source_revision"] or "local files",
        space="metres" if manifest["space"] == "depth" else "disparity: larger is nearer, of unknown scale and shift",
        license_text=license_text(license, sources),
        versions=", ".join(f"{library} {number}" for library, number in manifest["versions"].items()),
    )


def set_files(folder: Path) -> list[str]:
    """List the files of a finished set: shards, settings, rejects, card and manifest."""
    shards = sorted(path.relative_to(folder).as_posix() for path in (folder / DATA).glob("*.parquet"))
    return [*shards, SETTINGS, REJECTS, CARD, MANIFEST]


def push_folder(folder: Path, repo_id: str, private: bool | None = True, message: str | None = None) -> str:
    """Upload a finished set to the Hub; what is there already is not sent again, and shards of an older set go.

    Args:
        folder: Finished.
        repo_id: Of the data set; made if it does not exist.
        private: Whether one that is made is private; None: as its owner's settings are.
        message: Of the commit.

    Returns:
        Its address.

    Raises:
        OSError: The Hub refuses, or cannot be reached; the same call goes on.
    """
    return upload_files(
        folder, repo_id, "dataset", set_files(folder), private, message, outdated=[f"{DATA}/*.parquet"]
    )
