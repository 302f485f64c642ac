"""The hash stays where an image only looks a little different; the index finds what brute force finds."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from data_gen.hashes import DuplicateIndex, difference_hash


def scene(seed: int, size: int = 96) -> Image.Image:
    """Smooth coloured blobs: a layout without sharp edges."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def distance(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer)


def test_the_bits_are_read_row_by_row():
    rising = np.tile(np.arange(9, dtype=np.uint8) * 20, (8, 1))
    assert difference_hash(Image.fromarray(rising)) == 0
    assert difference_hash(Image.fromarray(rising[:, ::-1].copy())) == 2**64 - 1
    first = rising.copy()
    first[0, 0] = 255
    assert difference_hash(Image.fromarray(first)) == 1 << 63
    last = rising.copy()
    last[7, 8] = 0
    assert difference_hash(Image.fromarray(last)) == 1


def test_a_hash_stays_through_small_changes_and_differs_between_images():
    images = [scene(seed) for seed in range(20)]
    hashes = [difference_hash(image) for image in images]
    for change in (
        jpeg,
        lambda x: x.resize((41, 37)),
        lambda x: ImageEnhance.Brightness(x).enhance(0.8),
        lambda x: x.convert("RGBA"),
    ):
        assert max(distance(a, difference_hash(change(x))) for a, x in zip(hashes, images, strict=True)) <= 5
    apart = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > 12
    assert 28 < np.mean(apart) < 36


@pytest.mark.parametrize("most", [0, 2, 5, 9])
def test_the_index_finds_what_brute_force_finds(most):
    """20,000 random hashes; queries at every distance around the bound."""
    random = np.random.default_rng(most)
    hashes = random.integers(0, 2**64, 20_000, np.uint64)
    index = DuplicateIndex(most)
    for start in range(0, len(hashes), 4):
        index.add(hashes[start : start + 4].tolist(), f"set-{start // 4}")
    assert len(index) == 20_000
    hits = 0
    for query in range(300):
        value = int(hashes[random.integers(len(hashes))])
        for bit in random.choice(64, size=query % (most + 3), replace=False).tolist():
            value ^= 1 << bit
        near = np.flatnonzero(np.bitwise_count(hashes ^ np.uint64(value)) <= most) // 4
        expected = [f"set-{owner}" for owner in np.unique(near)]
        assert index.find(value) == expected
        hits += bool(expected)
    assert 0 < hits < 300


def test_keys_come_in_their_order_and_the_index_can_grow_after_a_search():
    index = DuplicateIndex(1)
    assert index.find(7) == []
    index.add([5, 6], "first")
    assert index.find(7) == ["first"]
    index.add([7, 2**64 - 1], "later")
    assert index.find(7) == ["first", "later"]
    assert index.find(2**64 - 1) == ["later"]
    assert index.find(0xFF00) == []


@pytest.mark.parametrize("wrong", [-1, 65])
def test_an_impossible_distance_is_refused(wrong):
    with pytest.raises(ValueError, match=str(wrong)):
        DuplicateIndex(wrong)
