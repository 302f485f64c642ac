"""Scores of images: their values, what a real image is compared with, what is kept and what is made again."""

import json

import pytest
import torch
from PIL import Image

from jedi import metrics
from jedi.evaluation.score import (
    ScoredImage,
    ScoredSubject,
    aggregate,
    by_subject,
    columns_of,
    load_encoders,
    score,
    score_all,
)
from tests import benchmarks_made_up as made_up
from tests.encoders import save_blip, save_clip


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return load_encoders([*made_up.encoders(folder), f"blip-itm:{save_blip(folder / 'tiny-blip')}"])


CLIP_I, CLIP_T, DINO, BLIP = "CLIP-I (tiny-clip)", "CLIP-T (tiny-clip)", "DINO (tiny-dino)", "BLIP-ITM (tiny-blip)"


@pytest.fixture
def group(tmp_path) -> ScoredSubject:
    """Three real images, the last two references; two made ones, a copy, and the real ones themselves."""
    real = [tmp_path / f"{i}.png" for i in range(3)]
    made = [tmp_path / f"made{i}.png" for i in range(2)]
    for i, path in enumerate([*real, *made]):
        made_up.scene(1, i).save(path)
    cases = [
        ScoredImage("m0", "model", made[0], "a cup on the grass"),
        ScoredImage("m1", "model", made[1], "a cup on the beach"),
        ScoredImage("c", "copy", real[1], "a cup on the grass"),
    ]
    cases += [ScoredImage(path.name, "oracle", path, leave_out=True) for path in real]
    return ScoredSubject("cup", tuple(real), tuple(real[1:]), tuple(cases))


def test_columns(encoders):
    clip = [f"{CLIP_I}, all real", f"{CLIP_I}, references", CLIP_T]
    assert columns_of(encoders) == [*clip, f"{DINO}, all real", f"{DINO}, references", BLIP, "copy"]


def test_values_are_those_of_the_metrics(encoders, group):
    records = {x["id"]: x for x in score(group, encoders, batch_size=2)}
    open_all = lambda paths: [Image.open(path) for path in paths]
    made = open_all(case.image for case in group.cases[:2])
    prompts = [case.prompt for case in group.cases[:2]]
    clip, dino, blip = (x.network for x in encoders)
    real = dino.embed_images(open_all(group.real))
    expected = {
        f"{DINO}, all real": metrics.identity_score(dino.embed_images(made), real),
        f"{DINO}, references": metrics.identity_score(dino.embed_images(made), real, [1, 2], "references"),
        f"{CLIP_I}, all real": metrics.identity_score(clip.embed_images(made), clip.embed_images(open_all(group.real))),
        CLIP_T: metrics.clip_t(clip.embed_images(made), clip.embed_texts(prompts)),
        BLIP: metrics.blip_itm(blip, made, prompts),
        "copy": metrics.copy_score(made, open_all(group.references)),
    }
    for name, values in expected.items():
        found = [records[f"m{i}"]["scores"][name] for i in range(2)]
        assert found == pytest.approx(values.tolist(), abs=1e-5), name
    assert set(records["m0"]["scores"]) == set(columns_of(encoders))
    assert records["m0"]["subject"] == "cup" and records["m1"]["prompt"] == "a cup on the beach"


def test_a_copy_is_its_reference(encoders, group):
    copy = next(x for x in score(group, encoders) if x["row"] == "copy")["scores"]
    assert copy["copy"] == pytest.approx(1, abs=1e-4)
    dino = encoders[1].network
    others = dino.embed_images([Image.open(path) for path in group.real])
    assert copy[f"{DINO}, references"] == pytest.approx((1 + (others[1] @ others[2]).item()) / 2, abs=1e-5)


def test_a_real_image_is_not_compared_with_itself(encoders, group):
    records = {x["id"]: x["scores"] for x in score(group, encoders) if x["row"] == "oracle"}
    rows = encoders[1].network.embed_images([Image.open(path) for path in group.real])
    cosines = rows @ rows.T
    all_real, references = f"{DINO}, all real", f"{DINO}, references"
    assert records["0.png"][all_real] == pytest.approx(cosines[0, 1:].mean().item(), abs=1e-5)
    assert records["0.png"][references] == pytest.approx(cosines[0, 1:].mean().item(), abs=1e-5)
    assert records["1.png"][all_real] == pytest.approx(cosines[1, [0, 2]].mean().item(), abs=1e-5)
    assert records["1.png"][references] == pytest.approx(cosines[1, 2].item(), abs=1e-5)
    assert records["1.png"]["copy"] < 0.99
    assert CLIP_T not in records["1.png"]  # no prompt, no text score


def test_a_single_real_image_has_nothing_to_be_compared_with(encoders, group):
    only = group.real[1]
    cases = (ScoredImage("r", "oracle", only, leave_out=True), group.cases[0])
    oracle, made = score(ScoredSubject("cup", (only,), (only,), cases), encoders)
    assert oracle["scores"] == {}
    assert made["scores"][f"{DINO}, all real"] == made["scores"][f"{DINO}, references"]
    table = aggregate([oracle, made], columns_of(encoders))
    assert table["oracle"] == {} and table["model"]["copy"].n == 1 and table["model"]["copy"].low is None


def test_a_reference_that_is_not_real_is_refused(encoders, group):
    with pytest.raises(ValueError, match="is not among its real images"):
        score(ScoredSubject("cup", group.real[:1], group.references, group.cases), encoders)


@pytest.mark.slow
def test_only_what_changed_is_scored_again(encoders, group, tmp_path, monkeypatch):
    other = ScoredSubject("pot", group.real, group.references[:1], group.cases)
    folder, made = tmp_path / "scores", []
    original = type(encoders[1].network).embed_images

    def embed(self, images):
        made.append(len(images))
        return original(self, images)

    monkeypatch.setattr(type(encoders[1].network), "embed_images", embed)
    first = score_all([group, other], encoders, folder)
    assert len(made) == 2 and len(first) == 12
    assert sorted(x.name for x in folder.iterdir()) == ["cup.json", "pot.json"]
    assert score_all([group, other], encoders, folder) == first and len(made) == 2
    (folder / "cup.json").write_text('{"key": 1}')  # broken: made again, to the same
    assert score_all([group, other], encoders, folder) == first and len(made) == 3
    made_up.scene(2, 7).save(group.cases[0].image)
    changed = score_all([group, other], encoders, folder)
    assert len(made) == 5 and changed[0]["scores"] != first[0]["scores"] and changed[1] == first[1]
    score_all([group], encoders[1:], folder)  # other encoders
    assert len(made) == 6


def test_means_and_intervals_are_by_subject():
    values = {"a": [0.0, 0.2], "b": [1.0, 1.0]}
    record = lambda subject, value: {"row": "model", "subject": subject, "scores": {"x": value}}
    records = [record(subject, value) for subject, found in values.items() for value in found]
    records.append({"row": "model", "subject": "b", "scores": {}})
    interval = aggregate(records, ["x", "y"])["model"]["x"]
    assert interval.mean == pytest.approx(0.55) and (interval.n, interval.groups) == (4, 2)
    assert interval.low == pytest.approx(0.1) and interval.high == pytest.approx(1.0)  # all draws of one subject
    assert by_subject(records, "model", ["x", "y"]) == {"a": {"x": pytest.approx(0.1)}, "b": {"x": 1.0}}


def test_encoders_whose_scores_would_share_a_name(tmp_path, encoders):
    again = save_clip(tmp_path / "tiny-clip")
    with pytest.raises(ValueError, match=r"another encoder has the score 'CLIP-I \(tiny-clip\), all real'"):
        load_encoders([f"clip:{again}", f"clip:{again}"])
    with pytest.raises(ValueError, match="unknown"):
        load_encoders(["nonsense:x"])


def test_scores_hold_plain_numbers(encoders, group, tmp_path):
    records = score_all([group], encoders, tmp_path / "scores")
    assert json.loads((tmp_path / "scores/cup.json").read_text())["images"] == records
    assert all(isinstance(value, float) for x in records for value in x["scores"].values())
    assert not any(isinstance(value, torch.Tensor) for x in records for value in x.values())
