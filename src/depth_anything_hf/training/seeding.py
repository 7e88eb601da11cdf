"""Random numbers that depend on where training stands, not on what ran before."""

from __future__ import annotations

import numpy as np
import torch


def derive_seed(*position: int) -> int:
    """Mix non-negative integers, such as seed, epoch and index, into one seed.

    A run that resumes derives the same seeds as one that was never interrupted, in any number of workers, and no
    random state has to be saved.

    Args:
        position (`int`): At least one non-negative integer. Trailing zeros do not count: (3, 0) is (3,).

    Returns:
        `int`: In [0, 2**63).

    Example:
        >>> derive_seed(0, 1) == derive_seed(0, 1), derive_seed(0, 1) == derive_seed(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_at(*position: int) -> torch.Generator:
    """Make a CPU generator seeded with `derive_seed(*position)`."""
    return torch.Generator().manual_seed(derive_seed(*position))
