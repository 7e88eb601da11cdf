"""Licenses: find the one of a model or dataset, and decide which one its descendants inherit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import DatasetCard, HfApi, ModelCard
from huggingface_hub.utils import validate_repo_id

from depth_anything_hf.model.bundled import checkpoint_folder

UNKNOWN = "unknown"
# From the authors' README files, for their names on the Hub and of their .pth files. They state none for the metric
# models: the larger ones inherit the license of the encoders that they start from, and for the small ones the Hub is asked.
_OFFICIAL = (
    (r"depth[-_]anything[-_]v2[-_](.*[-_])?(base|large|giant|vit[blg])([-_]hf|\.pth)?", "cc-by-nc-4.0"),
    (r"depth-anything/depth-anything-v2-small(-hf)?", "apache-2.0"),
    (r"liheyoung/depth[-_]anything[-_].*", "apache-2.0"),
    (r"facebook/dinov2-.*", "apache-2.0"),
)
# Benchmarks by the names of their readers, from their own pages. The pages of NYU Depth V2 and Sintel state none.
_BENCHMARKS = {"hypersim": "cc-by-sa-3.0", "kitti": "cc-by-nc-sa-3.0", "vkitti2": "cc-by-nc-sa-3.0"}
# Ids of the Hub, from the freest to the strictest. Of a license that is not listed only the name is known.
_FREE = "cc0-1.0 pddl unlicense mit bsd bsd-2-clause bsd-3-clause apache-2.0 odc-by cc-by-2.0 cc-by-3.0 cc-by-4.0"
_SHARE_ALIKE = "mpl-2.0 lgpl-3.0 gpl-2.0 gpl-3.0 agpl-3.0 odbl cc-by-sa-3.0 cc-by-sa-4.0"
_OTHER, _NON_COMMERCIAL = 2, 3


class Source(NamedTuple):
    """A component of a model or dataset; the result inherits its license."""

    role: str  # such as "base weights"
    name: str  # Hub id, name of a folder, or words
    license: str  # license id of the Hub, or "unknown"


def license_of(name: str, kind: str = "model") -> str:
    """Return the license of a model or dataset: from its card, by its official name, or by asking the Hub; or "unknown".

    Args:
        name (`str`): Hub id or folder; for a benchmark its name, or `NAME:FOLDER`.
        kind (`str`): `"model"` or `"dataset"`.

    Example:
        >>> license_of("depth-anything/Depth-Anything-V2-Metric-Indoor-Large-hf")
        'cc-by-nc-4.0'
        >>> license_of("LiheYoung/depth-anything-small-hf"), license_of("my photographs", "dataset")
        ('apache-2.0', 'unknown')
    """
    folder = Path(checkpoint_folder(name) if kind == "model" else name).expanduser()
    if kind == "dataset" and name.partition(":")[0] in _BENCHMARKS:
        return _BENCHMARKS[name.partition(":")[0]]
    if folder.is_dir():
        return _license_of_folder(folder, kind)
    for pattern, license in _OFFICIAL:
        if re.fullmatch(rf"(.*/)?{pattern}" if license != "apache-2.0" else pattern, name.lower()):
            return license
    if not is_hub_id(name):
        return UNKNOWN
    try:
        ask = HfApi().model_info if kind == "model" else HfApi().dataset_info
        return _stated(ask(name, timeout=5).card_data)
    except Exception:  # no network, no such repository, or one that this user may not read
        return UNKNOWN


def source_of(role: str, name: str, kind: str = "model") -> Source:
    """Return a source with its license; of a folder on this machine only the last part of the path is kept."""
    return Source(role, shown_name(name), license_of(name, kind))


def is_hub_id(name: str) -> bool:
    """Return True if a name is an id of the Hub: `owner/name`, and no folder on this machine.

    Example:
        >>> is_hub_id("facebook/dinov2-small"), is_hub_id("student"), is_hub_id("NYU Depth V2, train")
        (True, False, False)
    """
    try:
        validate_repo_id(name)
    except ValueError:
        return False
    return name.count("/") == 1 and not Path(name).exists()


def shown_name(name: str) -> str:
    """Return a name as others may see it: of a path on this machine only the last part.

    Example:
        >>> shown_name("/home/me/rooms"), shown_name("facebook/dinov2-small"), shown_name("nyuv2:/data/nyu")
        ('rooms', 'facebook/dinov2-small', 'nyuv2')
    """
    benchmark = re.match(r"(\w+):[./~]", name)
    if benchmark:
        return benchmark[1]
    path = Path(name).expanduser()
    return path.resolve().name if path.is_absolute() or path.exists() or name.startswith(".") else name


def most_restrictive(licenses: Iterable[str]) -> str:
    """Return the strictest of several licenses, the first of equally strict ones; "unknown" if there is none.

    A ban on commercial use always wins. Otherwise one unknown license makes the result unknown.

    Example:
        >>> most_restrictive(["apache-2.0", "unknown"]), most_restrictive(["unknown", "cc-by-nc-4.0", "mit"])
        ('unknown', 'cc-by-nc-4.0')
    """
    return max(licenses, key=_restriction, default=UNKNOWN)


def settle_license(stated: str | None, sources: Sequence[Source]) -> str:
    """Return the license that the user states, if all sources allow it; without one, the inherited license.

    An unknown license does not block a stated one; the user is responsible for it.

    Raises:
        ValueError: The stated license allows what a source forbids.
    """
    if stated is None:
        return most_restrictive([source.license for source in sources])
    for source in sources:
        if source.license != UNKNOWN and _restriction(stated) < _restriction(source.license):
            raise ValueError(
                f"license is {stated!r}, but {source.name} ({source.role}) is under {source.license!r}, which "
                f"{'forbids commercial use' if _restriction(source.license) >= _NON_COMMERCIAL else 'is stricter'}: "
                f"the result cannot be freer. State {source.license!r}, or one as strict."
            )
    return stated


def license_text(license: str, sources: Sequence[Source]) -> str:
    """Describe the license of `settle_license` and its sources in Markdown, for a card."""
    if not sources:
        return f"`{license}`. The components were not stated; their licenses are unknown."
    rows = [f"| {source.role} | {shown_name(source.name)} | {source.license} |" for source in sources]
    lines = [f"`{license}`. Components and their licenses:", "", "| | | license |", "|---|---|---|", *rows]
    if any(source.license == UNKNOWN for source in sources):
        lines += ["", "If a license is unknown, ask the owner first."]
    return "\n".join(lines)


def _restriction(license: str) -> int:
    """Rank a license by how strict it is."""
    license = license.lower()
    if "-nc" in license:
        return _NON_COMMERCIAL + ("-sa" in license) + 2 * ("-nd" in license)
    return 0 if license in _FREE.split() else 1 if license in _SHARE_ALIKE.split() else _OTHER


def _license_of_folder(folder: Path, kind: str) -> str:
    card = folder / "README.md"
    if card.is_file():
        try:
            data = (ModelCard if kind == "model" else DatasetCard).load(card, ignore_metadata_errors=True).data
        except Exception:  # no card, but some other README
            data = None
        if _stated(data) != UNKNOWN:
            return _stated(data)
    if (folder / "adapter_config.json").is_file():
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
        return most_restrictive([UNKNOWN, license_of(base) if base else UNKNOWN])
    # An official checkpoint in a folder of its name. A name alone never proves a free license.
    known = re.fullmatch(_OFFICIAL[0][0], folder.resolve().name.lower())
    return _OFFICIAL[0][1] if known else UNKNOWN


def _stated(data) -> str:
    stated = data and data.get("license")
    return (most_restrictive(stated) if isinstance(stated, list) else stated) or UNKNOWN
