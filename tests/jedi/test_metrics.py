"""The scores: by hand on vectors and drawings, and pinned through real encoders on fixed images."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageDraw, ImageOps
from torch import nn

from jedi import metrics
from jedi.io.images import to_tensor
from jedi.metrics import AGGREGATIONS, NEAR_COPY
from tests import encoders as small


def at(*degrees):
    """Unit vectors [n 2] at these angles: their cosines are known."""
    angle = torch.tensor(degrees, dtype=torch.float32).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], -1)


def cos(degrees):
    return math.cos(math.radians(degrees))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return metrics.load_encoder(f"clip:{small.save_clip(tmp_path_factory.mktemp('clip'))}")


def test_the_two_aggregations():
    """Of real images at 0, 60 and 90 degrees the model was given the second."""
    images, real = at(0, 30), at(0, 60, 90)
    all_real = metrics.identity_score(images, real, [1], "all_real")
    assert all_real.tolist() == pytest.approx([(1 + cos(60) + 0) / 3, (cos(30) + cos(30) + cos(60)) / 3], abs=1e-6)
    assert metrics.identity_score(images, real).tolist() == all_real.tolist()
    references = metrics.identity_score(images, real, [1], "references")
    assert references.tolist() == pytest.approx([cos(60), cos(30)], abs=1e-6)
    both = metrics.identity_score(images, real, [1, 2], aggregation="references")
    assert both.tolist() == pytest.approx([cos(60) / 2, (cos(30) + cos(60)) / 2], abs=1e-6)


def test_an_aggregation_must_be_named_rightly():
    with pytest.raises(ValueError, match="aggregation='mean': one of all_real, references"):
        metrics.identity_score(at(0), at(0), aggregation="mean")
    with pytest.raises(ValueError, match="needs the positions of the input references"):
        metrics.identity_score(at(0), at(0), aggregation="references")
    assert AGGREGATIONS == ("all_real", "references")


def test_a_copy_of_the_reference_gets_all_of_one_aggregation_and_not_of_the_other():
    real = at(10, 50, 90)
    copy = real[:1]
    assert metrics.identity_score(copy, real, [0], "references").item() == pytest.approx(1)
    assert metrics.identity_score(copy, real, [0], "all_real").item() < 0.7


def test_clip_t_is_the_plain_cosine_of_each_image_and_its_own_text():
    assert metrics.clip_t(at(0, 90), at(60, 60)).tolist() == pytest.approx([cos(60), cos(30)], abs=1e-6)
    assert metrics.clip_t(3 * at(0), 7 * at(120)).item() == pytest.approx(-0.5, abs=1e-6)
    with pytest.raises(ValueError, match="2 images and 1 texts"):
        metrics.clip_t(at(0, 1), at(0))


@pytest.mark.parametrize(
    ("prompt", "identifier", "expected"),
    [
        ("a sks dog on the beach", "sks", "a dog on the beach"),
        ("a photo of sks, a dog", "sks", "a photo of, a dog"),
        ("asks a sksy dog", "sks", "asks a sksy dog"),
        ("a <new1> cat and a <new1> hat", "<new1>", "a cat and a hat"),
        ("a dog", "", "a dog"),
        ("sks dog.", "sks", "dog."),
        ("a {0} dog", "{0}", "a dog"),
    ],
)
def test_the_identifier_is_dropped(prompt, identifier, expected):
    assert metrics.drop_identifier(prompt, identifier) == expected


def test_scores_through_a_real_clip_are_pinned(clip):
    photos = small.images()
    images = clip.embed_images(photos)
    texts = clip.embed_texts(["a cat", "a dog", "a bird", "a cup"])
    masks = [Image.new("L", x.size, 0) for x in photos]
    for mask in masks:
        ImageDraw.Draw(mask).rectangle((2, 3, mask.width // 3, mask.height - 5), fill=255)
    cuts = clip.embed_images([metrics.cut_subject(*pair) for pair in zip(photos, masks, strict=True)])
    found = {
        "clip_t": metrics.clip_t(images, texts),
        "clip_i": metrics.identity_score(images[:1], images[1:]),
        "clip_i of the reference": metrics.identity_score(images[:1], images[1:], [2], "references"),
        "mclip_i": metrics.identity_score(cuts[:1], cuts[1:]),
        "diversity": metrics.diversity(images)[None],
    }
    expected = {
        "clip_t": [-0.151, -0.347, -0.204, -0.284],
        "clip_i": [0.66],
        "clip_i of the reference": [0.587],
        "mclip_i": [0.245],
        "diversity": [0.402],
    }
    assert {name: x.tolist() for name, x in found.items()} == {
        name: pytest.approx(x, abs=2e-3) for name, x in expected.items()
    }


def test_cut_subjects():
    image = Image.new("RGB", (20, 10), (10, 20, 30))
    mask = Image.new("L", (20, 10), 0)
    ImageDraw.Draw(mask).rectangle((3, 2, 8, 5), fill=255)
    cut = np.asarray(metrics.cut_subject(image, mask))
    assert (cut[2:6, 3:9] == (10, 20, 30)).all()
    outside = np.ones((10, 20), bool)
    outside[2:6, 3:9] = False
    assert (cut[outside] == 255).all()
    assert (np.asarray(metrics.cut_subject(image, mask, (1, 2, 3)))[outside] == (1, 2, 3)).all()
    square = metrics.cut_subject(image, mask, crop=True)
    assert square.size == (6, 6)
    rows = (np.asarray(square) == (10, 20, 30)).all((1, 2))
    assert rows.tolist() == [False, True, True, True, True, False]  # in the middle
    empty = metrics.cut_subject(image, Image.new("L", (20, 10), 0), crop=True)
    assert empty.size == (20, 10) and (np.asarray(empty) == 255).all()
    with pytest.raises(ValueError, match=r"the mask has \(10, 10\) pixels, its image \(20, 10\)"):
        metrics.cut_subject(image, Image.new("L", (10, 10)))


def test_masked_scores_do_not_see_the_background(clip):
    """One subject before two backgrounds: alike when cut out, not as whole images."""
    mask = Image.new("L", (48, 48), 0)
    ImageDraw.Draw(mask).ellipse((14, 10, 36, 40), fill=255)
    subject = Image.new("RGB", (48, 48), (200, 60, 20))
    scenes = [Image.composite(subject, x.resize((48, 48)), mask) for x in small.images()[:2]]
    whole = clip.embed_images(scenes)
    cuts = clip.embed_images([metrics.cut_subject(x, mask) for x in scenes])
    assert metrics.identity_score(whole[:1], whole[1:]).item() < 0.95
    assert metrics.identity_score(cuts[:1], cuts[1:]).item() == pytest.approx(1, abs=1e-5)


def test_blip_itm_is_the_matchers_probability(tmp_path):
    matcher = metrics.load_encoder(f"blip-itm:{small.save_blip(tmp_path)}")
    found = metrics.blip_itm(matcher, small.images()[:2], ["a cat", "the red dog on the beach"])
    assert found.tolist() == pytest.approx([0.0346, 0.0405], abs=1e-3)


def test_every_subject_must_be_there():
    """Parts of the image look like the first subject and nothing like the second."""
    parts, fox, hat = at(0, 20, 80), at(0, 10), at(180, 170)
    scores = metrics.cp_clip(parts, [fox, hat])
    best_fox, best_hat = (1 + cos(10)) / 2, (cos(100) + cos(90)) / 2
    assert scores.each.tolist() == pytest.approx([best_fox, best_hat], abs=1e-6)
    assert scores.mean.item() == pytest.approx((best_fox + best_hat) / 2, abs=1e-6)
    assert scores.minimum.item() == pytest.approx(best_hat, abs=1e-6)
    both = metrics.cp_clip(torch.cat([parts, at(175)]), [fox, hat])
    assert both.each.tolist() == pytest.approx([best_fox, cos(5)], abs=1e-6)
    assert both.minimum.item() == pytest.approx(best_fox, abs=1e-6)
    nothing = metrics.cp_clip(torch.zeros(0, 2), [fox, hat])
    assert nothing.each.tolist() == [0, 0] and nothing.mean == nothing.minimum == 0
    with pytest.raises(ValueError, match="at least one subject"):
        metrics.cp_clip(parts, [])


def test_every_text_must_fit():
    scores = metrics.ti_clip(at(0, 90), torch.stack([at(0, 60), at(0, 60)]))
    torch.testing.assert_close(scores.each, torch.tensor([[1, cos(60)], [0, cos(30)]]), atol=1e-6, rtol=0)
    assert scores.mean.tolist() == pytest.approx([(1 + cos(60)) / 2, cos(30) / 2], abs=1e-6)
    assert scores.minimum.tolist() == pytest.approx([cos(60), 0], abs=1e-6)
    one = metrics.ti_clip(at(0, 90), at(60, 60)[:, None])
    torch.testing.assert_close(one.mean, metrics.clip_t(at(0, 90), at(60, 60)))
    with pytest.raises(ValueError, match=r"texts \(2, 2\): expected \[n t d\] with n = 2"):
        metrics.ti_clip(at(0, 1), at(0, 1))


def test_regions_cover_the_image_and_find_a_corner():
    image = Image.new("RGB", (50, 40), "white")
    ImageDraw.Draw(image).rectangle((40, 32, 49, 39), fill="red")
    parts = metrics.regions(image)
    assert len(parts) == 19
    assert parts[0].size == (50, 40) and parts[-1].size == (20, 16)
    assert sum(x.size == (30, 24) for x in parts) == 9
    share = [(np.asarray(x) == (255, 0, 0)).all(-1).mean() for x in parts]
    assert max(share) == share[-1] == pytest.approx(0.25)
    assert len(metrics.regions(image, sides=(1.0,))) == 1


def test_diversity():
    assert metrics.diversity(at(0, 0, 0)).item() == pytest.approx(0, abs=1e-6)
    assert metrics.diversity(at(0, 90, 180)).item() == pytest.approx((1 + 2 + 1) / 3, abs=1e-6)
    with pytest.raises(ValueError, match="at least two images of a prompt, got 1"):
        metrics.diversity(at(0))


def test_lpips_diversity_averages_all_pairs_once():
    images = torch.stack([torch.full((3, 4, 4), x) for x in (-1.0, 0.0, 1.0)])
    seen = []

    def distance(a, b):
        seen.append(len(a))
        return (a - b).abs().mean((1, 2, 3))

    assert metrics.lpips_diversity(images, distance).item() == pytest.approx((1 + 2 + 1) / 3)
    assert seen == [3]


def test_the_aesthetic_head_sees_features_of_length_one():
    head = nn.Linear(4, 1)
    features = torch.randn(3, 4)
    found = metrics.aesthetic(features, head)
    expected = (features / features.norm(dim=-1, keepdim=True)) @ head.weight.T + head.bias
    torch.testing.assert_close(found, expected[:, 0])


def test_retrieval():
    gallery = torch.stack([at(0, 40), at(90, 90), at(180, 300)])
    queries = at(20, 100, 10, 180)
    assert metrics.retrieval_accuracy(queries, gallery, [0, 1, 1, 2]).tolist() == [1, 1, 0, 1]
    found = metrics.retrieval_accuracy(queries, gallery, torch.tensor([0, 1, 0, 1]))
    assert found.dtype == torch.float32 and found.mean().item() == pytest.approx(0.75)


def test_retrieval_averages_renders_before_it_compares():
    """The nearest single render is the second subject's, the nearest mean the first's."""
    gallery = torch.stack([at(30, 30), at(0, 120)])
    assert metrics.retrieval_accuracy(at(0), gallery, [0]).tolist() == [1]


def test_a_constant_embedding_retrieves_nothing():
    assert metrics.retrieval_accuracy(at(5, 5), at(*[5] * 6).view(3, 2, 2), [0, 1]).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("labels", "gallery", "message"),
    [
        ([0], at(0, 1).view(2, 1, 2), r"labels \(1,\) \[q\]"),
        ([0, 1], at(0, 1), r"gallery \(2, 2\) must be \[s g d\]"),
        ([0, 2], at(0, 1).view(2, 1, 2), "labels run from 0 to 2, the gallery has 2 subjects"),
        ([-1, 1], at(0, 1).view(2, 1, 2), "labels run from -1 to 1"),
    ],
)
def test_retrieval_refuses(labels, gallery, message):
    with pytest.raises(ValueError, match=message):
        metrics.retrieval_accuracy(at(0, 1), gallery, labels)


def scene(subject_at, angle=0, background=(60, 140, 200), ground=(90, 160, 60), detail=0):
    """A figure of several colours before sky and ground, 96 pixels."""
    image = Image.new("RGB", (96, 96), background)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 62, 96, 96), fill=ground)
    for i in range(6):
        draw.line((16 * i + detail, 0, 96 - 9 * i, 60 - 5 * detail), fill=tuple(x - 30 for x in background), width=2)
    figure = Image.new("RGBA", (48, 48))
    pen = ImageDraw.Draw(figure)
    pen.ellipse((4, 14, 44, 46), fill=(210, 120, 30, 255))
    pen.polygon([(8, 16), (14, 2), (22, 14)], fill=(120, 60, 20, 255))
    pen.polygon([(26, 14), (34, 2), (40, 16)], fill=(120, 60, 20, 255))
    pen.ellipse((14, 22, 20, 28), fill=(0, 0, 0, 255))
    pen.ellipse((28, 22, 34, 28), fill=(0, 0, 0, 255))
    figure = figure.rotate(angle, Image.Resampling.BICUBIC)
    image.paste(figure, subject_at, figure)
    return image


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def noisy(image):
    noise = np.random.default_rng(0).normal(0, 10, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


REFERENCE = scene((24, 30))
OTHERS = {
    "same subject, other place and pose": scene((44, 44), angle=40, background=(200, 190, 230), ground=(120, 90, 60)),
    "same subject and pose, other background": scene(
        (24, 30), background=(240, 225, 160), ground=(60, 60, 70), detail=7
    ),
    "same background, other place and pose": scene((2, 4), angle=180),
    "another image": small.images()[0],
    "an empty image": Image.new("RGB", (96, 96), "white"),
}


@pytest.mark.parametrize(
    ("name", "copy", "least"),
    [
        ("same", lambda x: x, 0.9999),
        ("jpeg 30", lambda x: jpeg(x, 30), 0.85),
        ("shifted", lambda x: ImageChops.offset(x, 6, -6), 0.85),
        ("mirrored", ImageOps.mirror, 0.99),
        ("half the size", lambda x: x.resize((48, 48), Image.Resampling.BICUBIC), 0.9),
        ("larger", lambda x: x.resize((200, 200), Image.Resampling.BICUBIC), 0.95),
        ("noisy", noisy, 0.9),
    ],
)
def test_copies_are_found(name, copy, least):
    assert metrics.copy_score([copy(REFERENCE)], [REFERENCE]).item() >= least > NEAR_COPY


@pytest.mark.parametrize("name", OTHERS)
def test_other_scenes_are_no_copies(name):
    assert metrics.copy_score([OTHERS[name]], [REFERENCE]).item() < 0.5 < NEAR_COPY


def test_copy_scores_are_pinned():
    found = metrics.copy_score([jpeg(REFERENCE, 30), *OTHERS.values()], [REFERENCE])
    assert found.tolist() == pytest.approx([0.9025, 0.0738, 0.0823, 0.1323, 0, 0], abs=0.01)


def test_the_nearest_reference_counts():
    images, references = [REFERENCE, small.images()[0]], [*OTHERS.values(), REFERENCE]
    assert metrics.copy_score(images, references).tolist() == pytest.approx([1, 1], abs=1e-5)
    alone = metrics.copy_score(images, references[:2])
    assert alone.shape == (2,) and alone.max() < 0.5
    torch.testing.assert_close(alone[:1], metrics.copy_score(images[:1], references[:2]))


def test_images_of_the_same_layout_without_the_details_are_no_copies():
    """Either band alone would call one of these a copy."""
    blurred = REFERENCE.resize((6, 6), Image.Resampling.BOX).resize((96, 96), Image.Resampling.BICUBIC)
    pixels, smooth = to_tensor([REFERENCE, blurred])
    # The reference's details over another image's layout.
    other = to_tensor([small.images()[3].resize((96, 96)).resize((6, 6)).resize((96, 96), Image.Resampling.BICUBIC)])[0]
    details = Image.fromarray((((pixels - smooth + other).clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy())
    assert metrics.copy_score([blurred], [REFERENCE]).item() < NEAR_COPY
    assert metrics.copy_score([details], [REFERENCE]).item() < NEAR_COPY


def test_plain_images():
    """Two plain images are copies when they have one colour."""
    grey, red = Image.new("RGB", (64, 64), (90, 90, 90)), Image.new("RGB", (64, 64), (200, 90, 90))
    assert metrics.copy_score([grey, red], [grey]).tolist() == pytest.approx([1, 0], abs=1e-3)


def test_copy_score_needs_something_to_compare():
    with pytest.raises(ValueError, match="1 images and 0 references"):
        metrics.copy_score([REFERENCE], [])
