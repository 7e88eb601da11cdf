"""Parquet shards of records, read as a stream: for sets that no disk cache and no index should hold."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depth_anything_hf.data.folder import METADATA, parquet_features, parquet_files

if TYPE_CHECKING:
    import datasets


def stream_folder(path: str | os.PathLike, *more: str | os.PathLike, seed: int = 0) -> datasets.IterableDataset:
    """Open folders of parquet shards, there or in `data/`, as one stream of records.

    Only the shards' footers are read before the stream is. Schema columns get the types of `record_features`. For a
    shuffle of the records themselves see `training.streaming.StreamedBatches`, which trains on streams.

    Args:
        path: Folder, as `depth-anything-hf pseudo-label` writes it.
        more: Further ones.
        seed: Of the order in which the shards of all folders are read.

    Returns:
        The stream; images are decoded when a record is read, `depth_map` as 16-bit PIL images.

    Raises:
        FileNotFoundError: No such folder, or no parquet in it.
        ValueError: A column of the schema is missing, or files of several splits lie together.

    Example:
        >>> import tempfile
        >>> from datasets import Dataset
        >>> from depth_anything_hf.data.records import encode_record, record_features
        >>> record, folder = encode_record(np.zeros((1, 2, 3), np.uint8), values=[[1.0, 2.0]]), tempfile.mkdtemp()
        >>> _ = Dataset.from_list([record], features=record_features()).to_parquet(f"{folder}/part-0.parquet")
        >>> next(iter(stream_folder(folder)))["depth_map"].mode
        'I;16'
    """
    import datasets

    roots = [Path(folder).expanduser() for folder in (path, *more)]
    files = [file for root in roots for file in _shards(root)]
    order = np.random.default_rng(seed).permutation(len(files))
    data_files = {"train": [glob.escape(str(files[i].absolute())) for i in order]}
    features = parquet_features(", ".join(map(str, roots)), files)
    return datasets.load_dataset("parquet", data_files=data_files, features=features, split="train", streaming=True)


def _shards(root: Path) -> list[Path]:
    try:
        return parquet_files(root)
    except FileNotFoundError as error:
        state = "no such folder" if not root.exists() else "no *.parquet in it or in its data/"
        other = "read it with load_folder" if (root / METADATA).is_file() else "check the path"
        raise FileNotFoundError(
            f"{root}: {state}; a stream needs parquet shards: write them with `depth-anything-hf pseudo-label` or "
            f"datasets.Dataset.to_parquet, or {other}."
        ) from error
