"""Find the weights of a checkpoint, and identify them by a digest.

One digest, SHA-256 over names and bytes, in three places; each value is stored in files, and keeps its meaning there:

| function | over | stored as |
|---|---|---|
| `weights_fingerprint` | the tensors in a checkpoint's files, by published name | `base_model_fingerprint` of an adapter |
| `model_revision` | the tensors of a model in memory, by name; or its commit | `revisions` of `results.json`, `model_revision` of `settings.json`, the card of an ONNX file |
| `files_digest` | the files of a folder, byte for byte | `weights` of `provenance.json` |

The first two are equal for a checkpoint that was loaded as it lies, unless transformers renames its weights in memory, ties them or
leaves them out of its files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from torch import nn
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from depth_anything_hf.model.bundled import checkpoint_folder
from depth_anything_hf.model.modeling import NAMES_ON_DISK


def find_file(name: str, file: str, revision: str | None = None) -> str | None:
    """Find a file of a folder or Hub repository; None if it has no such file."""
    return cached_file(checkpoint_folder(name), file, revision=revision, _raise_exceptions_for_missing_entries=False)


def adapter_config(name: str, revision: str | None = None) -> tuple[str, dict[str, Any]] | None:
    """Find and read adapter_config.json: its path and content; None for a whole model."""
    from transformers.utils.peft_utils import find_adapter_config_file

    if find_file(name, "config.json", revision) is not None:
        return None
    path = find_adapter_config_file(name, revision=revision)
    return None if path is None else (path, json.loads(Path(path).read_text(encoding="utf-8")))


def adapter_base(name: str, revision: str | None = None) -> str | None:
    """Find the base model of a folder or Hub repository that holds an adapter alone; None for a whole model."""
    found = adapter_config(name, revision)
    if found is None:
        return None
    path, config = found
    if not isinstance(config.get("base_model_name_or_path") or None, str):
        raise ValueError(
            f"{path} does not say which model the adapter belongs to; write its Hub id or folder there, as "
            "base_model_name_or_path."
        )
    return config["base_model_name_or_path"]


def weights_fingerprint(name: str) -> str | None:
    """Identify the weights in a checkpoint's files, by published names and values: "sha256:" and 16 hexadecimal digits.

    None where there are no safetensors files.
    """
    paths = [find_file(name, "model.safetensors")]
    if paths == [None]:
        index = find_file(name, "model.safetensors.index.json")
        if index is None:
            return None
        shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
        paths = [find_file(name, shard) for shard in sorted(shards)]
    with ExitStack() as stack:
        owners: dict[str, Any] = {}
        for path in paths:
            file = stack.enter_context(safe_open(path, "pt"))
            owners |= dict.fromkeys(file.keys(), file)
        groups: dict[str, list[str]] = {}
        for key in sorted(owners):
            groups.setdefault(_published(key), []).append(key)
        return _short(
            _digest(
                (name if key == keys[0] else "", _bytes(owners[key].get_tensor(key)))
                for name, keys in sorted(groups.items())
                for key in keys
            )
        )


def _published(name: str) -> str:
    """Return the published name of a weight; the giant's two layers, `gate_proj` and `up_proj`, are one there, in this order."""
    for published, in_memory in NAMES_ON_DISK.items():
        name = name.replace(in_memory, published)
    return name.replace(".mlp.gate_proj.", ".mlp.weights_in.").replace(".mlp.up_proj.", ".mlp.weights_in.")


def model_revision(name: str, model: nn.Module, revision: str | None = None, stored: torch.dtype | None = None) -> str:
    """Identify a model that was loaded from `name`: its commit on the Hub, or `digest_of_model`."""
    if not Path(checkpoint_folder(name)).exists():
        commit = getattr(model.config, "_commit_hash", None) or _commit_on_hub(name, revision)
        if commit and adapter_base(name, revision) is None:  # an adapter's commit is not its base's
            return commit
    return digest_of_model(model, stored)


def digest_of_model(model: nn.Module, stored: torch.dtype | None = None) -> str:
    """Identify the weights of a model in memory: "sha256:" and 16 hexadecimal digits.

    `stored` is the dtype in the files, if the weights were converted from it.

    Example:
        >>> digest_of_model(nn.Identity())
        'sha256:e3b0c44298fc1c14'
    """
    state = model.state_dict()
    as_stored = (
        (key, state[key].to(stored) if stored and state[key].is_floating_point() else state[key])
        for key in sorted(state)
    )
    return _short(_digest((key, _bytes(values)) for key, values in as_stored))


def files_digest(folder: Path) -> str | None:
    """Identify the weights' files of a folder, byte for byte: all 64 hexadecimal digits; None without any file."""
    files = sorted(folder.glob("*.safetensors"))
    return _digest(("", block) for path in files for block in _blocks(path)) if files else None


def _digest(parts: Iterable[tuple[str, Any]]) -> str:
    """Digest named bytes, one part in memory at a time."""
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(name.encode())
        digest.update(content)
    return digest.hexdigest()


def _short(digest: str) -> str:
    return f"sha256:{digest[:16]}"


def _bytes(values: torch.Tensor) -> Any:
    """View a tensor of any type and shape as its bytes."""
    return values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(2**20):
            yield block


def _commit_on_hub(name: str, revision: str | None) -> str | None:
    """Read off the cache which commit was loaded: transformers' config does not keep it any more."""
    try:
        path = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:  # no id of the Hub
        return None
    return extract_commit_hash(path, None) if isinstance(path, str) else None
