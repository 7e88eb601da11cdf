"""What a labelling run is told, and what it settled on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub.utils import validate_repo_id
from torch import nn

from depth_anything_hf.labeling.sources import ImageSource
from depth_anything_hf.labeling.teacher import Preparation
from depth_anything_hf.maps.geometry import check_space
from depth_anything_hf.maps.resizing import check_resolution
from depth_anything_hf.prediction.weights import model_revision

KEEP_IMAGE = ("original", "resized", "reference")


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class LabelingArguments:
    """Arguments of `label_images` and of `depth-anything-hf pseudo-label`; each field's `help` says what it is."""

    model: str = field(metadata={"help": "Teacher: Hub id or folder of any depth model, or of a LoRA adapter."})
    images: str = field(
        metadata={"help": "Folder tree, glob in quotes, parquet or .tar files (or a folder of them), or Hub data set."}
    )
    out_dir: str = field(metadata={"aliases": ["--out"], "help": "Folder for the shards; an unfinished one goes on."})
    resolution: int | None = _option(
        None,
        "Shorter side of the network's input, a multiple of the patch size. Default: the teacher's, 518 for the official "
        "checkpoints.",
    )
    batch_size: int | None = _option(None, "Images a forward pass. Default: 32 on a GPU, 1 on a CPU.")
    image_column: str | None = _option(None, "Column of the images. Default: the only one of type image.")
    split: str = _option("train", "Split of a Hub data set.")
    limit: int | None = _option(None, "Label only so many images, the first ones.")
    keep_image: str = _option(
        "original",
        "What a record holds: the file as it came ('original'), a JPEG at the label's size ('resized'), or the path "
        "of a file here ('reference').",
    )
    space: str | None = _option(None, "'disparity' or 'depth', for a model whose config does not tell.")
    dtype: str | None = _option(None, "float32, bfloat16 or float16. Default: bfloat16 on a GPU, float32 on a CPU.")
    compiled: bool | None = _option(None, "Compile the network for common aspect ratios. Default: on a GPU.")
    device: str | None = _option(None, "'cpu' to leave a GPU alone. Default: the GPU where there is one.")
    num_workers: int | None = _option(None, "Processes that decode. Default: the cores but one, at most 16.")
    shard_size: int = _option(512, "Inputs of a shard; also what is done again after a crash, at most.")
    disable_tqdm: bool = _option(False, "No progress bar.")
    push_to_hub: str | None = _option(None, "Id of a data set on the Hub, to which the finished set is uploaded.")
    private: bool = _option(True, "Whether a data set that is made on the Hub is private.")

    def __post_init__(self):
        if self.keep_image not in KEEP_IMAGE:
            raise ValueError(f"keep_image is {self.keep_image!r}; it must be one of {', '.join(KEEP_IMAGE)}.")
        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise ValueError(f"dtype is {self.dtype!r}; it must be float32, bfloat16 or float16.")
        if self.device not in (None, "cpu"):
            raise ValueError(f"device is {self.device!r}; say cpu, or leave it out for the GPU (Accelerate chooses).")
        for name in ("resolution", "batch_size", "shard_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers is {self.num_workers}; it must be at least 0 (0: decode in this process).")
        if self.space is not None:
            check_space(self.space)
        if self.push_to_hub is not None:
            validate_repo_id(self.push_to_hub)  # now, not when all is labelled
        if self.num_workers is None:
            self.num_workers = min(max((os.cpu_count() or 1) - 1, 1), 16)


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the finished set holds; a folder keeps the settings it was begun with."""

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
        """Fill in what the arguments leave open.

        Args:
            args: As given.
            source: The opened images.
            model: The teacher.
            preparation: How it wants its images.
            space: What the teacher predicts.
            own_resolution: The teacher's, taken where none is given.
            device: "cuda", "cpu", ...

        Returns:
            The settings.

        Raises:
            ValueError: A resolution that is not a multiple of the patch size, or paths that are not kept.
        """
        fast = device == "cuda"
        if args.keep_image == "reference" and source.whole_files:
            raise ValueError(
                f"keep_image is 'reference', but the images of {source.name} lie inside files; choose 'original' or "
                "'resized'."
            )
        return cls(
            source=source.name,
            source_revision=source.revision,
            parts=source.parts,
            image_column=source.column,
            limit=args.limit,
            model=args.model,
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
        """Give the settings in the types that JSON has."""
        return json.loads(json.dumps(asdict(self) | {"preparation": self.preparation._asdict()}))

    def check_same(self, begun: dict[str, Any], folder: Path) -> None:
        """Refuse a folder that was begun with other settings.

        Args:
            begun: The folder's settings.
            folder: For the message.

        Raises:
            ValueError: They differ; the message names each difference.
        """
        now = self.as_json()
        changed = [
            f"{item.name}: {_brief(begun.get(item.name))} then, {_brief(now[item.name])} now"
            for item in fields(self)
            if begun.get(item.name) != now[item.name]
        ]
        if changed:
            raise ValueError(
                f"{folder} was begun with other settings ({'; '.join(changed)}); repeat those to go on, or label into "
                "a new folder."
            )


def _brief(value: Any) -> str:
    """Show a value in a message; a list of thousands of parts would bury the rest."""
    if isinstance(value, list) and len(value) > 4:
        return f"{len(value)} from {value[0]!r} to {value[-1]!r}"
    return repr(value)
