"""Keyed random numbers, and generators that count every bit of their seed."""

import pytest
import torch

from jedi.errors import InputError
from jedi.pipeline import image_generators
from jedi.rng import keyed_generator, keyed_seed, seed_global, seeded_generator


def test_pinned_for_ever():
    """Runs resume by these numbers: they may not change with a version of anything."""
    assert keyed_seed(0, "set", 5) == 304947953898977802
    drawn = torch.randint(1000, (4,), generator=seeded_generator(2**40 + 3)).tolist()
    assert drawn == [532, 404, 665, 745]


def test_streams_differ_by_seed_and_key_and_repeat():
    def draw(*key):
        return torch.randn(4, generator=keyed_generator(*key)).tolist()

    assert draw(0, "set", 1) == draw(0, "set", 1)
    keys = [(0, "set", 1), (0, "set", 2), (1, "set", 1), (0, "step", 1), (0, "set", 1, 1), (2**32, "set", 1)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)


def _globally(seed):
    with torch.random.fork_rng(devices=[]):
        seed_global(seed)
        return torch.randn(20).tolist()


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: torch.randn(20, generator=seeded_generator(seed)).tolist(),
        lambda seed: torch.randn(20, generator=image_generators(seed, 2)[1]).tolist(),
        _globally,
    ],
)
def test_every_bit_of_a_seed_counts(draw):
    """PyTorch's CPU generator looks at 32 of them."""
    seeds = [7, *(7 + 2**bit for bit in range(3, 64)), 2**64 - 2]
    drawn = [tuple(draw(seed)) for seed in seeds]
    assert len(set(drawn)) == len(seeds)
    assert drawn == [tuple(draw(seed)) for seed in seeds]


def test_seeds_of_32_bits_draw_what_pytorch_draws():
    for seed in (0, 7, 2**32 - 1):
        ours, theirs = seeded_generator(seed), torch.Generator().manual_seed(seed)
        assert torch.equal(torch.randn(700, generator=ours), torch.randn(700, generator=theirs))


def test_long_seeds_give_good_normals():
    """The state is ours: what comes out must still be normal noise, in one draw and in many."""
    generator = seeded_generator(2**50)
    x = torch.cat([torch.randn(50_000, generator=generator), *(torch.randn(3, generator=generator) for _ in range(99))])
    assert abs(x.mean()) < 0.02 and abs(x.std() - 1) < 0.02 and x.unique().numel() > 0.99 * x.numel()


@pytest.mark.parametrize("seed", [-1, 2**64, 10**40, 1.0, True, "7"])
@pytest.mark.parametrize("use", [seeded_generator, seed_global, keyed_seed, lambda seed: image_generators(seed, 1)])
def test_seeds_outside_of_64_bits_are_refused(use, seed):
    with pytest.raises(InputError, match=r"seed must be a whole number from 0 to 2\^64 - 1, got"):
        use(seed)


def test_the_last_image_s_seed_counts_too():
    assert len(image_generators(2**64 - 2, 2)) == 2
    with pytest.raises(InputError, match=r"2\^64 - 3"):
        image_generators(2**64 - 2, 3)
