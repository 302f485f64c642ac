"""Aspect-ratio buckets, and the crops that bring images to them."""

import numpy as np
import pytest
from PIL import Image

from jedi.io.sizes import best_size, bucket_sizes, crop_box, cropped


def test_the_buckets_of_a_resolution():
    assert bucket_sizes(512) == [(384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]
    known = {(768, 1344), (832, 1216), (896, 1152), (1024, 1024), (1152, 896), (1216, 832), (1344, 768)}
    assert known <= set(bucket_sizes(1024))  # SD-XL's own list
    for resolution, multiple, aspect in ((1024, 64, 4.0), (768, 8, 1.5), (100, 64, 1.0), (24, 8, 2.0)):
        sizes = bucket_sizes(resolution, multiple, aspect)
        assert len(set(sizes)) == len(sizes) and {(h, w) for w, h in sizes} == set(sizes)
        assert any(w == h for w, h in sizes)
        for w, h in sizes:
            assert w % multiple == h % multiple == 0 and w * h <= resolution**2
            assert max(w, h) <= aspect * min(w, h)
    assert bucket_sizes(63) == []


@pytest.mark.parametrize(
    ("images", "size"),
    [
        ([(1000, 1000)], (512, 512)),
        ([(600, 1000)], (384, 640)),
        ([(1000, 601), (5000, 3000)], (640, 384)),
        ([(10, 999)], (384, 640)),
        ([(600, 1000)] * 3 + [(1000, 600)], (384, 640)),  # most of them, where the mean would please none
    ],
)
def test_the_size_that_leaves_most_of_a_sets_images(images, size):
    assert best_size(images, bucket_sizes(512)) == size


def test_crops_have_the_right_shape_and_stay_near_their_centre():
    assert crop_box((100, 60), (8, 8)) == (20, 0, 80, 60)
    assert crop_box((100, 60), (8, 8), (10, 30)) == (0, 0, 60, 60)
    assert crop_box((100, 60), (8, 8), (99, 30)) == (40, 0, 100, 60)
    assert crop_box((60, 100), (20, 10), (30, 90)) == (0, 70, 60, 100)
    assert crop_box((100, 50), (640, 320)) == (0, 0, 100, 50)
    assert crop_box((1, 1000), (640, 320)) == (0, 500, 1, 501)  # never empty
    pixels = np.zeros((30, 60, 3), np.uint8)
    pixels[:, 40:] = 255
    image = Image.fromarray(pixels)
    assert np.asarray(cropped(image, (10, 15), (50, 15))).min() > 230  # without the black half
    assert cropped(image, (10, 15)).size == (10, 15) and cropped(image, image.size) is image
