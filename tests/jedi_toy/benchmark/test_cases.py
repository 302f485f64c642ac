"""Which questions the toy benchmark asks: read from the attributes, always the same ones."""

import copy

import pytest

from jedi.data import DataError, SetDataset, SetIndex
from jedi_toy.benchmark.cases import GALLERY, REFERENCES, PairCase, ToyCase, pair_case, read_cases, single_case
from tests.jedi_toy.toy_world import write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "data", 0, 40)


@pytest.fixture(scope="module")
def cases(world):
    return read_cases(world)


def test_the_target_cannot_be_had_by_copying(cases):
    assert len(cases.single) > 20
    for case in cases.single:
        record = cases.sets.record(case.index)
        target, images = record["images"][case.target], record["images"]
        assert len(case.references) == REFERENCES and len(case.gallery) == GALLERY
        assert len({case.target, *case.references, *case.gallery}) == 1 + REFERENCES + GALLERY
        for i in case.references:
            assert images[i]["pose"] != target["pose"] and images[i]["background"] != target["background"]
        assert all(images[i]["background"] != target["background"] for i in case.gallery)
        assert case.prompt == record["captions"][case.target]
        assert (case.pose, case.background) == (target["pose"], target["background"]) and case.pose != "upright"
        assert {"pose", "background"} <= set(target["caption_says"]) and "name" not in target["caption_says"]


def test_the_choice_is_always_the_same_and_of_different_drawings(world, cases):
    assert read_cases(world).single == cases.single
    few = read_cases(world, subjects=5)
    assert few.single == cases.single[:5] and len({case.drawing for case in few.single}) == 5
    ids = [case.id for case in cases.single]
    assert len(set(ids)) == len(ids)


def test_another_recolouring_is_taken_only_where_drawings_run_out(world, cases):
    drawings = {case.drawing for case in cases.single}
    assert len(drawings) < len(cases.single)  # 40 sets do hold one drawing twice
    assert len({case.drawing for case in read_cases(world, subjects=len(drawings)).single}) == len(drawings)


def test_pairs(cases):
    assert len(cases.pairs) >= 3
    subjects = [subject for case in cases.pairs for subject in case.subjects]
    assert len(set(subjects)) == len(subjects)
    for case in cases.pairs:
        images = cases.sets.record(case.index)["images"]
        assert [images[i]["subjects"] for i in case.references] == [[0], [1]]
        assert sorted(images[case.target]["subjects"]) == [0, 1] and case.says_place
        (left, *_), (right, *_) = case.boxes
        places = [place["place"] for place in images[case.target]["standing"]]
        assert (left < right) == (places == ["left", "right"])
        for j, places in enumerate(case.gallery):
            assert len(places) == GALLERY
            for member, box in places:
                assert member not in (case.target, *case.references)
                assert box == tuple(images[member]["standing"][images[member]["subjects"].index(j)]["box"])


def test_sets_without_a_question_are_counted_with_the_reason(cases):
    record = next(r for r in map(cases.sets.record, range(len(cases.sets))) if "subjects" not in r["subject"])
    assert isinstance(single_case(record, 0), (ToyCase, str))

    def changed(**values):
        other = copy.deepcopy(record)
        for image in other["images"]:
            image.update(values)
        return single_case(other, 0)

    assert "no caption says" in changed(caption_says=["class", "background"])
    assert "no caption says" in changed(caption_says=["name", "background", "pose"])
    assert "fewer than 3 references" in changed(background="beach", caption_says=["class", "background", "pose"])
    assert "lacks one of the attributes background, pose" in single_case({"images": [{}], "captions": ["a"]}, 0)
    several = next(r for r in map(cases.sets.record, range(len(cases.sets))) if "subjects" in r["subject"])
    assert isinstance(pair_case(several, 0), PairCase)
    three = copy.deepcopy(several)
    three["subject"]["subjects"].append(three["subject"]["subjects"][0])
    assert pair_case(three, 0) == "3 subjects"


def test_data_without_attributes_are_refused(shards):
    with pytest.raises(DataError, match=r"6 sets: an image lacks one of .*configs/data_gen/benchmark\.yaml does"):
        read_cases(shards)


def test_masks_are_read(world, shards, cases):
    case = cases.single[0]
    mask = cases.sets.mask(case.index, case.target)
    assert mask.mode == "L" and mask.size == (64, 64) and mask.getbbox() == case.box
    with pytest.raises(DataError, match=r"no member .*9\.mask\.png"):
        SetDataset(SetIndex.read(shards)).mask(0, 9)
