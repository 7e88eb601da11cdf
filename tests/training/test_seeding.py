import itertools

import torch

from depth_anything_hf.training.batches import derive_seed, generator_at


def test_derive_seed__every_position_has_its_own():
    seeds = {derive_seed(*position) for position in itertools.product(range(10), repeat=3)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derive_seed__order_matters_and_global_state_does_not():
    before = derive_seed(3, 1, 4)
    torch.manual_seed(99)
    assert derive_seed(3, 1, 4) == before != derive_seed(3, 4, 1)


def test_generator_at__same_position_same_numbers():
    first, again, other = (torch.rand(8, generator=generator_at(*position)) for position in [(7, 1), (7, 1), (7, 2)])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
