"""Verdicts on images: on real ones of known pose and place, and on made-up likenesses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from jedi_toy.benchmark.cases import read_cases
from jedi_toy.benchmark.judge import Judge, PairJudge, cut_out, posed, presence, psnr
from jedi_toy.encoder.network import SubjectEncoder
from tests.jedi.sampling import random_image
from tests.jedi_toy.toy_world import write_encoder, write_world

ROOM = torch.tensor([[0.9, 0.1, 0.2, 0.0], [0.1, 0.8, 0.2, 0.0]])
"""Likeness of two places to four subjects: subject 0 stands at the first, 1 at the second."""


BARE = "emoji.covered_reference_prob=0"


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """With mirrored and tilted subjects."""
    poses = "emoji.poses=[upright,upright,mirrored,tilted left,tilted right]"
    return read_cases(write_world(tmp_path_factory.mktemp("world") / "data", 0, 24, "emoji.references=0", poses, BARE))


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """The shipped benchmark's poses: upright references, subjects that lie or stand on their heads."""
    return read_cases(write_world(tmp_path_factory.mktemp("turned") / "data", 0, 24))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return SubjectEncoder.load(write_encoder(tmp_path_factory.mktemp("encoder") / "made"))


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [
        ((0, 1), (1.0, 1.0, 1.0)),
        ((1, 0), (0.0, 0.0, 1.0)),  # both there, at one another's places
        ((0, 2), (0.5, 0.0, 0.0)),
        ((2, 3), (0.0, 0.0, 0.0)),
    ],
)
def test_presence(subjects, expected):
    found = presence(ROOM, subjects)
    assert (found["each"], found["both"], found["either way"]) == expected


def test_one_subject_twice_is_not_two(cases):
    twice = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.7, 0.2]])
    assert presence(twice, (0, 1)) == {"each": 0.5, "both": 0.0, "either way": 0.0}


def test_pairs_are_recognised_where_they_stand(cases, encoder):
    """With real images and an untrained encoder: the crops asked for are those of the boxes."""
    judge = PairJudge(encoder, cases)
    real = [cases.image(case, case.target) for case in cases.pairs]
    found = judge.score(cases.pairs, real)
    assert len(found) == len(cases.pairs) and all(set(x) >= {"each", "both", "either way", "copy"} for x in found)
    assert judge.gallery.shape[:2] == (2 * len(cases.pairs), 4)
    turned = judge.score(cases.pairs, [x.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for x in real])
    assert sum(x["each"] for x in turned) <= sum(x["each"] for x in found)


def test_cut_out_keeps_the_box_and_goes_on_at_the_edge():
    image = Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3))
    inside = cut_out(image, (5, 4, 15, 10), margin=0.0)
    assert inside.size == (10, 10) and (np.asarray(inside)[2:8] == np.asarray(image)[4:10, 5:15]).all()
    corner = np.asarray(cut_out(image, (0, 0, 10, 10), margin=0.5))
    assert corner.shape == (20, 20, 3) and (corner[:5, :5] == np.asarray(image)[0, 0]).all()
    assert (corner[5:15, 5:15] == np.asarray(image)[:10, :10]).all()


@pytest.mark.slow
def test_poses_of_real_images(cases, encoder):
    """Of other images of the subject, on other backgrounds: those in the target's pose are told from upright ones."""
    for case in cases.single:
        target, mask = cases.image(case, case.target), cases.sets.mask(case.index, case.target)
        assert posed(target, target, mask, case) in (1.0, None)
    assert Judge(encoder, cases).pose_oracle() >= 0.95


@pytest.mark.slow
def test_turned_subjects_are_told_from_upright_and_from_otherwise_turned_ones(turned):
    assert {case.pose for case in turned.single} == {"lying", "upside down"}
    verdicts = {True: [], False: []}
    for case in turned.single:
        target, mask = turned.image(case, case.target), turned.sets.mask(case.index, case.target)
        assert posed(target, target, mask, case) in (1.0, None)
        for member, image in enumerate(turned.sets.record(case.index)["images"]):
            found = posed(turned.image(case, member), target, mask, case)
            if member != case.target and found is not None:
                verdicts[image["pose"] == case.pose].append(found)
    assert np.mean(verdicts[True]) >= 0.95 and np.mean(verdicts[False]) <= 0.1


def test_a_reference_kept_but_for_a_small_tilt_has_not_the_pose_asked_for(turned):
    found = []
    for case in turned.single:
        target, mask = turned.image(case, case.target), turned.sets.mask(case.index, case.target)
        left, top, right, bottom = case.box
        leaning = target.rotate(
            17 - case.angle, Image.Resampling.BICUBIC, center=((left + right) / 2, (top + bottom) / 2)
        )
        found.append(posed(leaning, target, mask, case))
    found = [x for x in found if x is not None]
    assert len(found) > 5 and np.mean(found) <= 0.1


def test_a_subject_without_sides_has_no_pose(cases):
    case = replace(cases.single[0], pose="mirrored", angle=0.0)
    disc = Image.new("RGB", (64, 64), "white")
    disc.paste("red", case.box)
    mask = Image.new("L", (64, 64))
    mask.paste(255, case.box)
    assert posed(disc, disc, mask, case) is None


def test_scores_of_single_subjects(cases, encoder):
    judge = Judge(encoder, cases)
    asked = cases.single[:5]
    oracle = judge.score(asked, [cases.image(case, case.target) for case in asked])
    copied = judge.score(asked, [cases.image(case, case.references[1]) for case in asked])
    assert [x["copy"] for x in copied] == pytest.approx([1.0] * 5)
    assert all(x["copy"] < 0.9 for x in oracle)
    assert all(x["pose"] in (1.0, None) for x in oracle)
    assert all(-1 <= x[key] <= 1 for x in oracle for key in ("likeness", "prompt"))
    right, likeness = judge.identity(judge.gallery[2, :1], [cases.single[2].id])
    assert right in ([0.0], [1.0]) and likeness[0] == pytest.approx(
        float((judge.gallery[2] @ judge.gallery[2, 0]).mean()), abs=1e-5
    )


def test_diversity(cases, encoder):
    judge, same = Judge(encoder, cases), random_image(1)
    assert judge.diversity([same, same]) == pytest.approx(0, abs=1e-5)
    assert judge.diversity([same, random_image(2)]) > 1e-4


def test_psnr():
    a = Image.new("RGB", (4, 4), (100, 100, 100))
    b = a.copy()
    b.putpixel((0, 0), (110, 110, 110))
    everywhere = torch.ones(4, 4, dtype=torch.bool)
    assert psnr(a, a, everywhere) == float("inf")
    assert psnr(a, b, everywhere) == pytest.approx(10 * np.log10(255**2 / (100 / 16)))
    away = everywhere.clone()
    away[0, 0] = False
    assert psnr(a, b, away) == float("inf")
    with pytest.raises(ValueError, match="no pixel to compare"):
        psnr(a, b, ~everywhere)
