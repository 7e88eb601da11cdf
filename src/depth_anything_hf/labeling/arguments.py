"""Arguments of a labeling run, and the settings that result from them. Imports nothing heavy."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depth_anything_hf.maps.spaces import SPACES
from depth_anything_hf.prediction.devices import DEVICES
from depth_anything_hf.training.fields import check_choices

if TYPE_CHECKING:
    from torch import nn

    from depth_anything_hf.labeling.sources import ImageSource
    from depth_anything_hf.labeling.teacher import Preparation

KEEP_IMAGE = ("original", "resized", "reference")
DTYPES = ("float32", "bfloat16", "float16")


def _option(default: Any, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help} | more)


@dataclass
class LabelingArguments:
    """Arguments of `label_images` and of `depth-anything-hf pseudo-label`; each field's `help` describes it.

    Raises:
        ValueError: An unknown choice, a number below its range, or a `push_to_hub` that is no repository id.
    """

    model: str = field(
        metadata={"metavar": "ID|DIR", "help": "Teacher: Hub id or folder of any depth model, or of a LoRA adapter."}
    )
    images: str = field(
        metadata={
            "metavar": "DIR|GLOB|FILE|ID",
            "help": "Folder tree, glob in quotes, parquet or .tar(.gz) files (or a folder of them), LMDB, or Hub data set.",
        }
    )
    out_dir: str = field(
        metadata={"aliases": ["--out"], "metavar": "DIR", "help": "Output folder; an unfinished run there is resumed."}
    )
    resolution: int | None = _option(
        None,
        "Shorter side of the model's input, a multiple of the patch size. Default: the teacher's, 518 for the official "
        "checkpoints.",
        metavar="PIXELS",
    )
    batch_size: int | None = _option(None, "Images per forward pass. Default: 32 on a GPU, 1 on a CPU.")
    image_column: str | None = _option(None, "Column of the images. Default: the only one of type image.")
    split: str = _option("train", "Split of a Hub data set.")
    limit: int | None = _option(None, "Label only this many images, the first ones. Default: all.")
    keep_image: str = _option(
        "original",
        "Image of a record: the original file (original), a JPEG at the label's size (resized), or the path of a file "
        "on this machine (reference).",
        choices=KEEP_IMAGE,
    )
    space: str | None = _option(
        None, "What the model predicts, if its config does not say. Default: as the config says.", choices=SPACES
    )
    dtype: str | None = _option(
        None, "Number format of the model. Default: bfloat16 on a GPU, float32 on a CPU.", choices=DTYPES
    )
    compiled: bool | None = _option(None, "Compile the network for common aspect ratios. Default: on a GPU.")
    device: str | None = _option("auto", "Where it runs. Default: CUDA, else MPS, else the CPU.", choices=DEVICES)
    num_workers: int | None = _option(
        None, "Processes that decode. Default: all cores but one, at most 16.", metavar="COUNT"
    )
    shard_size: int = _option(512, "Images per shard; at most this many are labeled again after a crash.")
    allow_outside: bool = _option(
        False, "Open files that records name outside of their set's folder, and URLs; for sets that you trust."
    )
    disable_tqdm: bool = _option(False, "No progress bar.")
    push_to_hub: str | None = _option(
        None, "Id of a data set on the Hub, to which the finished set is uploaded.", metavar="ID"
    )
    private: bool = _option(True, "Create the data set on the Hub as a private one. Default: true.")

    def __post_init__(self):
        check_choices(type(self), vars(self))
        for name in ("resolution", "batch_size", "shard_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers is {self.num_workers}; it must be at least 0 (0: decode in this process).")
        if self.push_to_hub is not None and self.keep_image == "reference":
            raise ValueError(
                "push_to_hub with keep_image 'reference': paths on this machine are of no use to others; choose "
                "'original' or 'resized'."
            )
        if self.push_to_hub is not None:
            from huggingface_hub.utils import validate_repo_id

            validate_repo_id(self.push_to_hub)  # before the hours of labeling
        if self.num_workers is None:
            self.num_workers = min(max((os.cpu_count() or 1) - 1, 1), 16)


@dataclass(frozen=True)
class Settings:
    """Store all settings that decide the content of the finished set; a folder keeps those of its first run."""

    source: str
    source_revision: str | None
    parts: tuple[str, ...]
    image_column: str
    limit: int | None
    model: str
    model_revision: str
    space: str
    resolution: int
    preparation: Preparation
    dtype: str
    compiled: bool
    batch_size: int
    shard_size: int
    keep_image: str

    @classmethod
    def resolve(
        cls,
        args: LabelingArguments,
        source: ImageSource,
        model: nn.Module,
        preparation: Preparation,
        space: str,
        own_resolution: int,
        device: str,
    ) -> Settings:
        """Replace the arguments that were left out by their defaults, which depend on the teacher and the device.

        Raises:
            ValueError: A resolution that is not a multiple of the patch size, or `keep_image` "reference" for images
                inside files.
        """
        from depth_anything_hf.maps.resizing import check_resolution
        from depth_anything_hf.prediction.weights import model_revision
        from depth_anything_hf.sharing.licenses import shown_name

        fast = device == "cuda"
        if args.keep_image == "reference" and source.whole_files:
            raise ValueError(
                f"keep_image is 'reference', but the images of {source.name} are inside files; choose 'original' or "
                "'resized'."
            )
        return cls(
            source=shown_name(source.name),
            source_revision=source.revision,
            parts=source.parts,
            image_column=source.column,
            limit=args.limit,
            model=shown_name(args.model),
            model_revision=model_revision(args.model, model),
            space=space,
            resolution=check_resolution(args.resolution or own_resolution, preparation.multiple),
            preparation=preparation,
            dtype=args.dtype or ("bfloat16" if fast else "float32"),
            compiled=fast if args.compiled is None else args.compiled,
            batch_size=args.batch_size or (32 if fast else 1),
            shard_size=args.shard_size,
            keep_image=args.keep_image,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON types."""
        return json.loads(json.dumps(asdict(self) | {"preparation": self.preparation._asdict()}))

    def check_same(self, begun: dict[str, Any], folder: Path) -> None:
        """Raise a `ValueError` that names each difference, if a folder was begun with other settings."""
        from depth_anything_hf.sharing.licenses import shown_name

        now = self.as_json()
        # Version 0.1.0 wrote whole paths.
        begun = begun | {name: shown_name(str(begun.get(name))) for name in ("source", "model")}
        changed = [
            f"{item.name}: {_brief(begun.get(item.name))} then, {_brief(now[item.name])} now"
            for item in fields(self)
            if begun.get(item.name) != now[item.name]
        ]
        if changed:
            raise ValueError(
                f"{folder} was begun with other settings ({'; '.join(changed)}); use those to continue, or label into "
                "a new folder."
            )


def _brief(value: Any) -> str:
    """Return a value for a message; long lists are shortened."""
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} from {value[0]!r} to {value[-1]!r}"
    return repr(value)
