"""Licenses: find the one of a model or dataset, and decide which one its descendants inherit."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import DatasetCard, HfApi, ModelCard, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from depth_anything_hf.data.markdown import table
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
# All that the Hub takes: https://huggingface.co/docs/hub/repositories-licenses
LICENSES = frozenset(
    f"""{_FREE} {_SHARE_ALIKE} unknown other afl-3.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
    bigscience-bloom-rail-1.0 bigscience-openrail-m bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.5 cc-by-nc-2.0 cc-by-nc-3.0
    cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0
    cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0
    epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl grok2-community h-research
    intel-research isc lgpl lgpl-2.1 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c ms-pl ncsa ofl-1.1
    openmdw-1.0 openrail openrail++ osl-3.0 postgresql wtfpl zlib""".split()
)


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
        return stated_license(ask(name, timeout=5).card_data)
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


def license_id(name: str) -> str:
    """Return the Hub's id of a license, which may be written with capitals, spaces and the word license.

    Raises:
        ValueError: The Hub has no such license; the message has the nearest ids.

    Example:
        >>> license_id("MIT"), license_id("Apache License 2.0"), license_id("CC BY-NC 4.0")
        ('mit', 'apache-2.0', 'cc-by-nc-4.0')
    """
    words = re.sub(r"\b(the|licen[sc]e|version)\b|\bv(?=\d)", " ", name.lower())
    found = re.sub(r"[\s,_-]+", "-", words).strip("-")
    if found not in LICENSES:
        close = difflib.get_close_matches(found, sorted(LICENSES - {UNKNOWN}), 3, 0.5)
        near = f"the nearest are {', '.join(close)}" if close else "such as mit, apache-2.0, cc-by-nc-4.0"
        raise ValueError(
            f"license is {name!r}, which is no id of the Hub's list; {near}; other stands for any other license, whose text "
            "lies in a file LICENSE."
        )
    return found


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


def on_card(license: str) -> str:
    """Return what the metadata of a card say of a license: the Hub takes the ids of its list alone."""
    return license if license in LICENSES else "other"


def check_base(base: str) -> None:
    """Raise a `ValueError` for a base model that does not exist: it would stand on the card.

    A base is a folder on this machine; or an id of the Hub that is the official name of a model, is in the cache, or that the
    Hub knows.
    """
    is_one_name = is_hub_id(base) or "/" not in base or os.path.isfile(base)  # no address, no id with more after it
    if os.path.isdir(checkpoint_folder(base)) or (is_one_name and license_of(base) != UNKNOWN):
        return
    if not is_hub_id(base):
        raise ValueError(f"base is {base!r}, which is neither a folder here nor an id of the Hub, owner/name.")
    if isinstance(try_to_load_from_cache(base, "config.json"), str):
        return
    try:
        HfApi().model_info(base, timeout=5)
    except GatedRepoError:
        return
    except RepositoryNotFoundError:
        problem = "is not on the Hub, or is private: correct it"
    except Exception:  # no network
        problem = "could not be looked up on the Hub: check the network, or pass the folder"
    else:
        return
    raise ValueError(f"base is {base!r}, which is no folder here, and {problem}.")


def license_text(license: str, sources: Sequence[Source]) -> str:
    """Describe the license of `settle_license` and its sources in Markdown, for a card."""
    if not sources:
        return f"`{license}`. The components were not stated; their licenses are unknown."
    rows = [(source.role, shown_name(source.name), source.license) for source in sources]
    lines = [f"`{license}`. Components and their licenses:", "", *table(("", "", "license"), rows)]
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
        if stated_license(data) != UNKNOWN:
            return stated_license(data)
    if (folder / "adapter_config.json").is_file():
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
        return most_restrictive([UNKNOWN, license_of(base) if base else UNKNOWN])
    # An official checkpoint in a folder of its name. A name alone never proves a free license.
    known = re.fullmatch(_OFFICIAL[0][0], folder.resolve().name.lower())
    return _OFFICIAL[0][1] if known else UNKNOWN


def stated_license(data) -> str:
    """Return the license on a card, by its id if the Hub has one; "unknown" without."""
    stated = (data and data.get("license")) or UNKNOWN
    ids = []
    for one in stated if isinstance(stated, list) else [stated]:
        try:
            ids.append(license_id(str(one)))
        except ValueError:  # the name is known, and no more
            ids.append(str(one))
    return most_restrictive(ids)
