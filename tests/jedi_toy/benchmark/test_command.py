"""The toy benchmark from end to end with random models: rows, resuming, what is written, what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from evaluate import main
from jedi.evaluation.baselines import UntrainedCoupling
from jedi.evaluation.generate import Sampling
from jedi.pipeline import JediPipeline, image_generators
from jedi_toy.benchmark import command, rows
from jedi_toy.benchmark.cases import read_cases
from jedi_toy.benchmark.command import ToyRequest, evaluate
from jedi_toy.benchmark.edits import EQUAL, edit_cases, mask_of, outside, region_of
from jedi_toy.benchmark.rows import ToyRow, main_row, rows_beside
from tests.jedi.sampling import random_image
from tests.jedi_toy.toy_world import write_encoder, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "data", 0, 24, "resolution=32")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder") / "made")


@pytest.fixture(scope="module")
def pipe(tiny_model):
    pipe = JediPipeline.from_pretrained(tiny_model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def small():
    """Fewer of everything."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("DIVERSITY", (2, 2)), ("NOISES", 2), ("EDITS", 2), ("PAIRS", 2), ("CURVE_SUBJECTS", 2)):
            patch.setattr(rows, name, value)
        patch.setattr(rows, "CURVES", {"guidance_scale": (1.0, 4.0), "image_guidance_scale": (3.0,)})
        yield


@pytest.fixture(scope="module")
def request_(world, encoder, tiny_model, tmp_path_factory):
    return ToyRequest(
        data=str(world),
        out=str(tmp_path_factory.mktemp("out") / "made"),
        model=str(tiny_model),
        encoder=str(encoder),
        rows=("one_way:1", "one_way:2", "mutual:2"),
        subjects=4,
        sampling=Sampling(steps=2, guidance="three_branch", guidance_scale=2.0, image_guidance_scale=1.5),
        batch_size=4,
        samples=50,
    )


@pytest.fixture(scope="module")
def result(request_, small):
    return evaluate(request_)


def out_of(request_):
    from pathlib import Path

    return Path(request_.out)


@pytest.mark.slow
def test_rows(result):
    assert [row["name"] for row in result["rows"]] == [
        "one_way-1", "one_way-2", "mutual-2", "oracle", "copy", "none", "untrained-2",
    ]  # fmt: skip
    assert result["main"] == "one_way-2"
    for row in result["rows"]:
        assert len(row["images"]) == 4 and [x["id"] for x in row["images"]] == [
            x["id"] for x in result["rows"][0]["images"]
        ]
    by_name = {row["name"]: row["images"] for row in result["rows"]}
    assert all(x["copy"] == pytest.approx(1) for x in by_name["copy"])
    assert all(x["pose"] in (1.0, None) for x in by_name["oracle"])
    assert result["summary"]["rows"]["oracle"]["copy"]["n"] == 4
    assert result["gallery"] == len(read_cases(result["data"]["name"]).single) > 4


@pytest.mark.slow
def test_all_parts_are_measured(result):
    edits = {row["name"]: row["images"] for row in result["edits"]}
    assert set(edits) == {"one_way-2", "none", "oracle", "copy"} and len(edits["one_way-2"]) == 2
    for x in edits["one_way-2"]:
        assert x["kept"] == 1.0  # pasted: every pixel outside of the mask is the scene's
        assert x["decoded"] == pytest.approx(x["vae"], abs=3.0) and x["vae"] < EQUAL
    assert [row["name"] for row in result["pairs"]] == ["one_way", "oracle", "copy", "none"]
    assert len(result["diversity"]) == 2 and all(len(row["images"]) == 2 for row in result["diversity"])
    points = {row["name"]: row for row in result["curves"]}
    assert set(points) == {
        "one_way-2", "one_way-2-guidance_scale-1", "one_way-2-guidance_scale-4", "one_way-2-image_guidance_scale-3",
    }  # fmt: skip
    assert points["one_way-2-image_guidance_scale-3"]["scales"] == {"guidance_scale": 2.0, "image_guidance_scale": 3.0}


@pytest.mark.slow
def test_few_and_many_references_are_compared_subject_by_subject(result, request_):
    few, many = result["references"]
    assert (few["name"], many["name"]) == ("one_way-1", "one_way-2")
    assert [x["id"] for x in few["images"]] == [x["id"] for x in many["images"]] and len(few["images"]) == 4 * 2
    plans = [
        json.loads((out_of(request_) / f"references/one_way-{k}-x2/plan.json").read_text())["items"] for k in (1, 2)
    ]
    assert [x["seed"] for x in plans[0]] == [x["seed"] for x in plans[1]] and len({x["seed"] for x in plans[0]}) == 8
    expected = np.mean([x["likeness"] for x in many["images"]]) - np.mean([x["likeness"] for x in few["images"]])
    found = result["summary"]["references"]["difference"]["likeness"]
    assert found["mean"] == pytest.approx(expected) and found["low"] <= expected <= found["high"] and found["n"] == 8
    alone = [ToyRow.parse("one_way:2"), ToyRow.parse("mutual:1")]
    assert rows.fewest_and_most(alone, alone[0]) == []


@pytest.mark.slow
def test_what_is_written(result, request_):
    out = out_of(request_)
    stored = json.loads((out / "scores.json").read_text())
    assert stored["rows"] == json.loads(json.dumps(result["rows"]))
    page = (out / "report.html").read_text()
    parts = ("2 references instead of 1: retrieval ", "Two subjects in one image", "Editing", "Worst cases")
    for words in ("held-out subjects, pose and background", *parts):
        assert words in page
    titles = [x["title"] for x in json.loads((out / "report.json").read_text())["sections"]]
    assert titles[1:] == [
        "Identity against prompt as guidance varies", "More references", "Two subjects in one image", "Editing",
        "Diversity", "Best cases", "Worst cases", "Two subjects", "Edits", "How it is measured",
    ]  # fmt: skip
    assert "`" not in page and ":mod:" not in page


@pytest.mark.slow
def test_the_same_command_makes_only_what_is_missing(result, request_, small, monkeypatch):
    out, calls = out_of(request_), []
    original = JediPipeline.__call__
    monkeypatch.setattr(JediPipeline, "__call__", lambda self, *a, **k: calls.append(a) or original(self, *a, **k))
    gone = sorted((out / "images" / "one_way-2" / "images").glob("*.png"))[1]
    before = gone.read_bytes()
    gone.unlink()
    again = evaluate(request_)
    assert len(calls) == 1
    assert np.abs(np.asarray(Image.open(gone)).astype(int) - _pixels(before)).max() <= 1
    assert [row["name"] for row in again["rows"]] == [row["name"] for row in result["rows"]]


def _pixels(data: bytes) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


@pytest.mark.slow
def test_the_images_are_those_of_the_pipeline(result, request_, pipe, world):
    case = read_cases(world).single[1]
    cases = read_cases(world)
    seed = json.loads((out_of(request_) / "images/one_way-2/plan.json").read_text())["items"][1]["seed"]
    expected = pipe(
        case.prompt,
        list(cases.references(case, 2)),
        num_inference_steps=2,
        guidance="three_branch",
        guidance_scale=2.0,
        image_guidance_scale=1.5,
        mode="one_way",
        generator=image_generators(seed, 1),
    ).images[0]
    made = np.asarray(Image.open(out_of(request_) / f"images/one_way-2/images/{case.id}.png")).astype(int)
    assert np.abs(made - np.asarray(expected)).max() <= 1


def test_untrained_coupling_changes_what_references_say_and_nothing_else(pipe):
    other = UntrainedCoupling.of(pipe)
    options = {"num_inference_steps": 2, "output_type": "latent"}
    call = lambda x, **more: x("a cat", generator=image_generators(0, 1), **options, **more).images
    assert torch.equal(call(pipe), call(other))
    references = [random_image(1), random_image(2)]
    with_references = call(other, references=references)
    assert not torch.allclose(with_references, call(pipe, references=references), atol=1e-4)
    assert torch.equal(with_references, call(UntrainedCoupling.of(pipe), references=references))
    trained, turned = pipe.encode_references(references), other.encode_references(references)
    for name, (key, value) in trained.layers.items():
        for a, b in zip((key, value), turned.layers[name], strict=True):
            assert torch.allclose(a.norm(dim=-1), b.norm(dim=-1), atol=1e-4) and not torch.allclose(a, b, atol=1e-2)


def test_edits_cover_the_subject_that_goes(world, pipe):
    from jedi.inpainting import Inpainting

    cases = read_cases(world)
    edits = edit_cases(cases, 3)
    assert len(edits) == 3
    for edit in edits:
        record = cases.sets.record(edit.case.index)
        assert edit.case.drawing != edit.scene.drawing
        assert record["images"][edit.member]["background"] == edit.scene.background
        assert edit.prompt == record["captions"][edit.member] and edit.member not in edit.case.references
        scene = cases.image(edit.scene, edit.scene.target)
        mask = np.asarray(mask_of(edit, scene.size)) > 0
        assert mask[np.asarray(cases.sets.mask(edit.scene.index, edit.scene.target)) > 0].all() and not mask.all()
        left, top, right, bottom = region_of(edit, scene.size)
        assert mask.sum() == (right - left) * (bottom - top)
        prepared = Inpainting.prepare(scene, mask_of(edit, scene.size), pipe.image_size, pipe.vae, "cpu")
        away = outside(prepared, pipe.image_size)
        assert away.any() and not (away & torch.from_numpy(mask)).any()


@pytest.mark.parametrize("text", ["one_way", "one_way:0", "one_way:4", "one-way:2", ":2"])
def test_rows_are_mode_and_references(text):
    with pytest.raises(ValueError, match="expected MODE:REFERENCES"):
        ToyRow.parse(text)


def test_the_main_row():
    rows = [ToyRow.parse(x) for x in ("one_way:1", "mutual:2", "one_way:2")]
    assert main_row(rows).name == "mutual-2" and main_row(rows[:1]).name == "one_way-1"
    assert [row.kind for row in rows_beside(rows[1])] == ["oracle", "copy", "none"]
    assert [row.kind for row in rows_beside(rows[2])] == ["oracle", "copy", "none", "untrained"]


@pytest.mark.slow
def test_the_command(world, encoder, tiny_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "QUICK_SUBJECTS", 3)
    arguments = ["toy", "--quick", "--data", str(world), "--model", str(tiny_model), "--encoder", str(encoder)]
    arguments += ["--out", str(tmp_path / "out"), "--steps", "2", "--samples", "20"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "3 held-out subjects" in text and "oracle: the real image" in text and "report.html" in text
    assert main([*arguments, "--seed", "1"]) == 2
    assert "holds another plan (item" in capsys.readouterr().err
    assert main([*arguments, "--rows", "sideways:2"]) == 2
    assert "--rows sideways:2: the model was trained for one_way, mutual" in capsys.readouterr().err
    assert main(["toy", "--data", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "no data folder" in capsys.readouterr().err


def test_quick_is_one_row_and_nothing_else():
    from evaluate import parser

    ask = lambda *more: command.request_from(parser("toy").parse_args(["toy", "--data", "d", "--out", "o", *more]))
    quick, full = ask("--quick"), ask()
    assert (quick.rows, quick.parts, quick.subjects, quick.sampling.steps) == (("one_way:2",), (), 30, 15)
    assert (full.rows, full.parts, full.subjects, full.sampling.steps) == (command.ROWS, command.PARTS, 100, None)
    assert ask("--mode", "mutual").rows == ("mutual:1", "mutual:2", "mutual:3")
    assert ask("--quick", "--parts", "pairs", "--steps", "5").parts == ("pairs",)


def test_help_loads_no_torch(python, environment):
    from tests.test_architecture import loaded_by

    code = "import contextlib, evaluate\nwith contextlib.suppress(SystemExit): evaluate.main(['toy', '--help'])"
    assert not loaded_by(python, environment, code) & {"torch", "diffusers", "transformers"}
