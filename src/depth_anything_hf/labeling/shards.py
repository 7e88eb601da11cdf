"""Finished blocks on disk: a parquet shard under its final name only when whole and checked, and what it holds."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from depth_anything_hf.data.codes import depth_map_to_image
from depth_anything_hf.data.records import record_features
from depth_anything_hf.data.whole_files import file_digest, replacing, write_whole
from depth_anything_hf.labeling.decoding import Rejected
from depth_anything_hf.labeling.plan import BlockEnd, BlockId
from depth_anything_hf.sharing.dataset_card import DATA

ROWS_IN_A_GROUP, BYTES_IN_A_GROUP = 64, 2**28  # a reader of a stream holds a group in memory
PROGRESS = "progress"


def encode_label(codes: np.ndarray) -> bytes:
    """Write codes as a 16-bit PNG, at the speed that keeps up with a network.

    Run lengths instead of a dictionary: a depth map's low bits are noise, where zlib's search finds nothing. Measured
    on a 518 x 686 map: half the time of level 6, the same size.

    Args:
        codes: (height, width) uint16.

    Returns:
        The file.
    """
    file = io.BytesIO()
    depth_map_to_image(codes).save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return file.getvalue()


def encode_picture(pixels: np.ndarray, quality: int = 95) -> bytes:
    """Write (height, width, 3) uint8 as a JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


class ShardFolder:
    """Write blocks to a folder, and know which are finished.

    A block is finished when its entry stands in `progress/`; its shard stands in `data/` by then. Both are written
    under another name, flushed to the disk, and renamed.

    Args:
        path: The folder.

    Example:
        >>> import tempfile
        >>> ShardFolder(Path(tempfile.mkdtemp())).finished()
        {}
    """

    def __init__(self, path: Path):
        from datasets import Value

        self.path = path
        self.features = record_features(own_size=Value("bool"))

    def prepare(self) -> None:
        """Make the folders, and remove what an interrupted run left half written."""
        for name in (DATA, PROGRESS):
            (self.path / name).mkdir(parents=True, exist_ok=True)
            for left in (self.path / name).glob(".*.partial"):
                left.unlink(missing_ok=True)

    def finished(self) -> dict[BlockId, dict[str, Any]]:
        """Read the entries of all finished blocks, in order."""
        entries = {}
        for file in sorted((self.path / PROGRESS).glob("[0-9]*.json")):
            entries[BlockId(*map(int, file.stem.split("-")))] = json.loads(file.read_text(encoding="utf-8"))
        return entries

    def write_block(self, end: BlockEnd, outcomes: Mapping[str, Future | Rejected | None]) -> dict[str, Any]:
        """Write a block's shard, check it, and then its entry.

        Args:
            end: What was read.
            outcomes: By key, in order of the inputs: the future of a record or of its rejection, or the rejection.

        Returns:
            The entry.

        Raises:
            OSError: The shard cannot be written or does not read back.
        """
        results = {key: out.result() if isinstance(out, Future) else out for key, out in outcomes.items()}
        rows = [result for result in results.values() if isinstance(result, dict)]
        rejects = [{"key": key, "reason": out.reason} for key, out in results.items() if isinstance(out, Rejected)]
        if end.inputs != len(results):
            raise RuntimeError(
                f"block {end.block} has {end.inputs} inputs and {len(results)} outcomes; please report."
            )
        entry = {"inputs": end.inputs, "labeled": len(rows), "last": end.last, "digest": end.digest}
        entry |= {"unreadable": end.unreadable, "rejects": rejects, "file": None}
        if rows:
            file = self.path / DATA / f"part-{end.block}.parquet"
            entry |= {"file": f"{DATA}/{file.name}"} | self._write_shard(file, rows)
        write_whole(self.path / PROGRESS / f"{end.block}.json", json.dumps(entry).encode())
        return entry

    def _write_shard(self, file: Path, rows: list[dict]) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = self.features.arrow_schema
        with replacing(file) as partial:
            # The bytes are compressed already: a codec would only take time.
            with pq.ParquetWriter(partial, schema, compression="none", use_dictionary=False) as writer:
                for group in _row_groups(rows):
                    writer.write_table(pa.Table.from_pylist(group, schema=schema))
            found = pq.read_metadata(partial).num_rows
            if found != len(rows):
                raise OSError(f"{partial} holds {found} of {len(rows)} rows; check the disk, then run again.")
            return {"sha256": file_digest(partial), "bytes": partial.stat().st_size}


def _row_groups(rows: list[dict]) -> Iterator[list[dict]]:
    group, size = [], 0
    for row in rows:
        group.append(row)
        size += len(row["image"]["bytes"] or b"")
        if len(group) == ROWS_IN_A_GROUP or size > BYTES_IN_A_GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group
