"""Go on where a record is broken: the next sound one takes its place, and the broken one is named and counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from depth_anything_hf.data.records import DepthSample, decode_record

_logger = logging.getLogger(__name__)


class SoundRecords(Sequence):
    """Decode the records of a set when they are indexed; in place of a broken one the next sound one is returned.

    Each broken record is named in the log, once in a process.

    Args:
        records: A set with a length and an index.

    Raises:
        ValueError: When a record is read: none can be.

    Example:
        >>> from depth_anything_hf.data.records import encode_record
        >>> from PIL import Image
        >>> sound = encode_record(Image.new("RGB", (4, 3)), source="b.png")
        >>> [sample.source for sample in SoundRecords([{"image": None, "source": "a.png"}, sound])]
        ['b.png', 'b.png']
    """

    def __init__(self, records: Sequence[Mapping[str, Any] | DepthSample]):
        self.records = records
        self.broken: dict[int, str] = {}  # why, by index; of this process

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        for place in (*range(index, len(self)), *range(index)):
            if place in self.broken:
                continue
            try:
                return decode_record(self.records[place])
            except (OSError, ValueError) as error:
                self.broken[place] = str(error)
                _logger.warning("record %d is skipped, %d so far: %s", place, len(self.broken), error)
        first = next(iter(self.broken.values()), "there is none")
        raise ValueError(f"none of {len(self)} records can be read; the first: {first}")
