"""evaluate.py: from the command line to scores and a report, or to one clear line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluate
import sample
from jedi.pipeline import JediPipeline
from tests import benchmarks_made_up as made_up
from tests.paths import DREAMBOOTH, needs_dreambooth
from tests.test_architecture import loaded_by


@pytest.fixture(scope="session")
def encoders(tmp_path_factory) -> list[str]:
    return ["--encoders", *made_up.encoders(tmp_path_factory.mktemp("encoders")), "--device", "cpu", "--samples", "50"]


@pytest.fixture
def dreambench(tmp_path, tiny_model, monkeypatch, encoders):
    """A made-up DreamBench in `data`; gives a function that runs `evaluate.py dreambench` there."""
    monkeypatch.chdir(tmp_path)
    made_up.dreambench(tmp_path / "data")

    def run(*more, scoring=True, **changed) -> int:
        given = {"data": "data", "model": tiny_model, "out": "out", "steps": 1, "num-images-per-prompt": 2} | changed
        command = [str(x) for key, value in given.items() if value is not None for x in (f"--{key}", value)]
        return evaluate.main(["dreambench", *command, *map(str, more), *(encoders if scoring else [])])

    return run


def images(folder: Path) -> dict[str, np.ndarray]:
    found = sorted((folder / "images").rglob("*.png"))
    return {x.relative_to(folder / "images").as_posix(): np.asarray(Image.open(x)).astype(int) for x in found}


def close(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(abs(a[key] - b[key]).max() <= 1 for key in a)


# --- dreambench


@pytest.mark.slow
def test_images_scores_and_a_report(dreambench, tmp_path, capsys):
    assert dreambench() == 0
    made = images(tmp_path / "out")
    assert len(made) == 3 * 2 * 2 + 3 * 2
    result = json.loads((tmp_path / "out/scores.json").read_text())
    rows = [x["row"] for x in result["images"]]
    assert {row: rows.count(row) for row in rows} == {"model": 12, "no_reference": 6, "copy": 6, "oracle": 18}
    assert result["full_protocol"] is False and "3 subjects in the folder" in result["deviations"][0]
    assert any("other encoders" in x for x in result["deviations"])
    assert result["references"] == "1 reference, Kosmos-G's list"
    assert result["settings"]["num_inference_steps"] == 1 and len(result["model"]["sha256"]["unet"]) == 64
    identity = result["columns"][3]
    assert identity == "DINO (tiny-dino), all real"
    mean = np.mean([x["scores"][identity] for x in result["images"] if x["row"] == "model"])
    found = result["rows"]["model"][identity]
    assert found["mean"] == pytest.approx(mean, abs=1e-5) and found["low"] <= mean <= found["high"]
    assert result["rows"]["copy"]["copy"]["mean"] == pytest.approx(1, abs=1e-3)
    assert result["rows"]["copy"]["DINO (tiny-dino), references"]["mean"] == pytest.approx(1, abs=1e-3)
    assert "CLIP-T (tiny-clip)" not in result["rows"]["oracle"]
    page = (tmp_path / "out/report.html").read_text()
    assert "Not the full protocol" in page and "real images (oracle)" in page and "data:image/" in page
    assert "0.619" in page and "a red cup" in page
    out = capsys.readouterr().out
    assert "This is not DreamBench's full protocol: 3 subjects in the folder" in out
    assert f"{result['label']}, 1 ref." in out and "JeDi" in out and "out/report.html" in out


@pytest.mark.slow
def test_the_same_command_again_does_nothing_anew(dreambench, tmp_path, monkeypatch):
    assert dreambench() == 0
    scores = (tmp_path / "out/scores.json").read_bytes()
    stamps = {x: x.stat().st_mtime_ns for x in (tmp_path / "out/images").rglob("*.png")}
    monkeypatch.setattr(JediPipeline, "__call__", lambda *x, **y: pytest.fail("an image was made again"))
    monkeypatch.setattr("jedi.evaluation.score.score", lambda *x: pytest.fail("scores were made again"))
    assert dreambench() == 0
    assert {x: x.stat().st_mtime_ns for x in stamps} == stamps
    assert (tmp_path / "out/scores.json").read_bytes() == scores


@pytest.mark.slow
def test_stages_and_parts_give_what_one_command_gives(dreambench, tmp_path, capsys):
    assert dreambench(out="whole") == 0
    for part in ("2/3", "0/3", "1/3"):
        assert dreambench("--part", part, scoring=False) == 0
        assert f"all images of part {part} are made" in capsys.readouterr().out
    assert not (tmp_path / "out/scores.json").exists()
    assert close(images(tmp_path / "out"), images(tmp_path / "whole"))
    assert dreambench("--stage", "score", model="moved/elsewhere") == 0  # the model is not needed
    one, other = (json.loads((tmp_path / x / "scores.json").read_text()) for x in ("whole", "out"))
    assert one["label"] == other["label"] and one["rows"].keys() == other["rows"].keys()
    for row, columns in one["rows"].items():
        for column, found in columns.items():
            assert found["mean"] == pytest.approx(other["rows"][row][column]["mean"], abs=1e-2)


@pytest.mark.slow
def test_scoring_wants_all_images(dreambench, tmp_path, capsys):
    assert dreambench("--stage", "score") == 2
    assert "out holds no plan.json" in capsys.readouterr().err
    assert dreambench("--part", "0/2", scoring=False) == 0
    assert dreambench("--stage", "score") == 2
    assert "9 of 18 images are missing (vase/00-1" in capsys.readouterr().err
    assert dreambench("--part", "1/2", scoring=False) == 0
    assert dreambench("--stage", "score", **{"num-images-per-prompt": 1}) == 2
    assert "out holds another plan (expected 12 items, found 18" in capsys.readouterr().err
    assert dreambench("--stage", "score") == 0


@pytest.mark.slow
def test_only_subjects_whose_images_changed_are_scored_again(dreambench, tmp_path, monkeypatch):
    assert dreambench() == 0
    scored, original = [], evaluate.module_of("dreambench").score_all.__globals__["score"]

    def score(group, *rest):
        scored.append(group.subject)
        return original(group, *rest)

    monkeypatch.setattr("jedi.evaluation.score.score", score)
    made_up.scene(9, 9).save(tmp_path / "out/images/cat/00-0.png")
    assert dreambench("--stage", "score") == 0
    assert scored == ["cat"]


@pytest.mark.slow
def test_three_references_and_other_runs_beside(dreambench, tmp_path, capsys):
    common = {"num-images-per-prompt": 1, "subjects": "cat"}
    assert dreambench("--no-reference", 0, out="first", **common, **{"guidance-scale": 2}) == 0
    assert dreambench("--refs", 3, "--beside", "first", "--label", "more", **common) == 0
    out = capsys.readouterr().out
    assert "more, 3 ref." in out and "tiny_model" in out
    result = json.loads((tmp_path / "out/scores.json").read_text())
    assert result["references"].startswith("3 references: Kosmos-G's and 2 of a fixed list of this project")
    assert "<svg" in (tmp_path / "out/report.html").read_text()
    assert "no_reference" not in json.loads((tmp_path / "first/scores.json").read_text())["rows"]
    assert len(json.loads((tmp_path / "out/plan.json").read_text())["items"][0]["references"]) == 3


@pytest.mark.slow
def test_dreambench_plus(dreambench, tmp_path, capsys):
    made_up.dreambench_plus(tmp_path / "plus")
    assert dreambench(data="plus", **{"num-images-per-prompt": 1}) == 0
    assert "This is not DreamBench++'s full protocol: 2 subjects in the folder" in capsys.readouterr().out
    result = json.loads((tmp_path / "out/scores.json").read_text())
    assert result["rows"]["oracle"] == {}  # one image a subject: nothing to compare it with
    assert {x["subject"] for x in result["images"]} == {"live_subject_animal_00", "object_03"}
    assert "live subject animal" in (tmp_path / "out/report.html").read_text()


@pytest.mark.slow
@needs_dreambooth
def test_the_published_images(dreambench, tmp_path):
    options = {"data": DREAMBOOTH, "prompts": 1, "num-images-per-prompt": 1}
    assert dreambench("--subjects", "red_cartoon", "dog8", **options) == 0
    assert len(images(tmp_path / "out")) == 4
    result = json.loads((tmp_path / "out/scores.json").read_text())
    assert result["deviations"][:2] == ["2 of 30 subjects", "1 of 25 prompts a subject"]
    assert {x["prompt"] for x in result["images"] if x["row"] == "model"} == {
        "a dog in the jungle", "a cartoon in the jungle",
    }  # fmt: skip


# --- scores


@pytest.mark.slow
def test_scores_of_any_images(tmp_path, monkeypatch, encoders, capsys):
    monkeypatch.chdir(tmp_path)
    for number, subject in enumerate(("cat", "cup")):
        for kind, count in (("made", 3), ("given", 2), ("more", 4)):
            (tmp_path / kind / subject).mkdir(parents=True)
            for i in range(count):
                made_up.scene(number, i + 10 * (kind == "made")).save(tmp_path / kind / subject / f"{i}.png")
    (tmp_path / "prompts.txt").write_text("".join(f"a sks {x} on the beach\n" for x in ("cat",) * 3 + ("cup",) * 3))
    command = ["scores", "--images", "made", "--references", "given", "--out", "out", *encoders]
    assert evaluate.main([*command, "--prompts", "prompts.txt", "--identifier", "sks", "--real", "more"]) == 0
    result = json.loads((tmp_path / "out/scores.json").read_text())
    rows = [x["row"] for x in result["images"]]
    # Of the four real images two are the given ones.
    assert {row: rows.count(row) for row in rows} == {"model": 6, "copy": 2, "oracle": 8}
    assert result["images"][0]["id"] == "cat/0.png" and result["images"][0]["prompt"] == "a cat on the beach"
    assert result["label"] == "made" and "CLIP-T (tiny-clip)" in result["rows"]["model"]
    assert (tmp_path / "out/report.html").is_file() and "made" in capsys.readouterr().out
    assert evaluate.main(command) == 0  # without prompts
    assert "CLIP-T (tiny-clip)" not in json.loads((tmp_path / "out/scores.json").read_text())["rows"]["model"]
    (tmp_path / "prompts.json").write_text(json.dumps({"cup/1.png": "a cup"}))
    assert evaluate.main([*command, "--prompts", "prompts.json"]) == 0
    again = json.loads((tmp_path / "out/scores.json").read_text())["images"]
    assert [x["id"] for x in again if x["row"] == "model"] == ["cup/1.png"]
    assert "left out: cat/0.png" in capsys.readouterr().err


def test_scores_of_a_folder_of_sample_py(tmp_path, monkeypatch, tiny_model, encoders):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(2):
        made_up.scene(1, i).save(tmp_path / "photos" / f"{i}.png")
    made = ["--references", "photos", "--prompt", "a cat", "--prompt", "a dog", "--model", str(tiny_model)]
    assert sample.main([*made, "--steps", "1", "--out", "made"]) == 0
    command = ["scores", "--images", "made", "--references", "photos", "--prompts", "made/samples.json"]
    assert evaluate.main([*command, "--out", "out", *encoders]) == 0
    images = json.loads((tmp_path / "out/scores.json").read_text())["images"]
    assert [(x["id"], x["prompt"]) for x in images if x["row"] == "model"] == [
        ("0000.png", "a cat"), ("0001.png", "a dog"),
    ]  # fmt: skip
    assert {x["subject"] for x in images} == {"made"}


def test_the_contact_sheet_is_no_result(tmp_path, monkeypatch, tiny_model, encoders):
    monkeypatch.chdir(tmp_path)
    made_up.scene(1, 0).save(tmp_path / "photo.png")
    made = ["--references", "photo.png", "--prompt", "a cat", "--model", str(tiny_model), "--steps", "1"]
    assert sample.main([*made, "--out", "made/cat"]) == 0
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photo.png").rename(tmp_path / "photos/cat/grid.png")  # only the record tells what an image is
    assert evaluate.main(["scores", "--images", "made", "--references", "photos", "--out", "out", *encoders]) == 0
    images = json.loads((tmp_path / "out/scores.json").read_text())["images"]
    assert [x["id"] for x in images if x["row"] == "model"] == ["cat/0000.png"]
    assert [x["id"] for x in images if x["row"] == "oracle"] == ["grid.png"]


@pytest.mark.parametrize("name", ["scores.json", "report.html", "report.json"])
def test_files_of_others_stay_and_are_seen_before_the_work(dreambench, tmp_path, monkeypatch, capsys, encoders, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    monkeypatch.setattr("jedi.loading.load_pipeline", lambda *x: pytest.fail("the work has begun"))
    monkeypatch.setattr("jedi.evaluation.commands.scores.load_encoders", lambda *x: pytest.fail("the work has begun"))
    scores = ["scores", "--images", "data/can", "--references", "data/can", "--out", "out", *encoders]
    assert dreambench() == 2 and evaluate.main(scores) == 2
    said = capsys.readouterr().err
    assert said.count(f"out holds a {name} that no earlier run wrote") == 2
    assert (tmp_path / "out" / name).read_text() == "mine" and len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize("out", ["data", "data/out", "data/can"])
def test_nothing_is_written_into_what_is_read(dreambench, tmp_path, capsys, encoders, out):
    before = sorted(tmp_path.rglob("*"))
    assert dreambench(out=out) == 2 and f"--out {out} is inside --data data" in capsys.readouterr().err
    scores = ["scores", "--images", "data", "--references", "data", "--out", out, *encoders]
    assert evaluate.main(scores) == 2 and f"--out {out} is inside --images data" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


# --- mistakes

CANS = ("scores", "--images", "data/can", "--references", "data/can", "--out", "y")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--refs", "2"], "argument --refs: invalid choice"),
        (["--subjects", "pot"], "--subjects pot: not in data, which has can, cat, vase"),
        (["--num-images-per-prompt", "0"], "--num-images-per-prompt must be a whole number of 1 or more, got 0"),
        (["--prompts", "0"], "--prompts must be a whole number of 1 or more"),
        (["--no-reference", "-1"], "--no-reference must be 0 or more"),
        (["--steps", "0"], "--steps must be a whole number of 1 or more"),
        (["--guidance-scale", "nan"], "--guidance-scale must be a number of 0 or more"),
        (["--part", "3/3"], "--part 3/3: expected I/N"),
        (["--part", "x"], "--part x: expected I/N"),
        (["--part", "0/3", "--stage", "score"], "--part is for generating"),
        (["--data", "absent"], "--data absent: no such folder"),
        (["--model", "absent"], "--model absent: no such folder or file (a model, a training run"),
        (["--encoders", "clip:absent"], "absent"),
        (["--encoders", "eye:x"], "the kind 'eye' is unknown"),
        (["--device", "tpu9"], "--device tpu9"),
        (["--beside", "absent"], "--beside absent: no scores.json there"),
        (["--extensions", "no_such_module"], "extensions: no module 'no_such_module' on the Python path"),
        (["--guidance", "nonsense"], "nonsense"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_a_mistake_is_one_line(dreambench, tmp_path, capsys, encoders, more, message):
    code = evaluate.main(["dreambench", "--data", "data", "--out", "out", "--steps", "1", *encoders, *more])
    captured = capsys.readouterr()
    assert code == 2 and message in captured.err
    assert captured.err.startswith("evaluate.py: ") and captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "SUBCOMMAND"),
        (["dream"], "invalid choice: 'dream'"),
        (["dreambench", "--out", "x"], "required: --data"),
        (["scores", "--images", "absent", "--references", "x", "--out", "y"], "--images absent: no such folder"),
        (["scores", "--images", "data/can", "--references", "absent", "--out", "y"], "--references absent"),
        (["scores", "--images", "data", "--references", "data/can", "--out", "y"], "but data/can is a subject"),
        (["scores", "--images", "empty", "--references", "x", "--out", "y"], "neither images nor folders"),
        ([*CANS, "--prompts", "three"], "three: 3 lines, but data/can holds 6 images"),
        ([*CANS, "--prompts", "no.json"], "data/can holds no no.png"),
        ([*CANS, "--prompts", "bad.json"], 'expected {"IMAGE"'),
    ],
)
def test_other_mistakes(tmp_path, monkeypatch, capsys, encoders, arguments, message):
    monkeypatch.chdir(tmp_path)
    made_up.dreambench(tmp_path / "data")
    (tmp_path / "data/prompts_and_classes.txt").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "three").write_text("a\nb\nc\n")
    (tmp_path / "no.json").write_text('{"no.png": "a cat"}')
    (tmp_path / "bad.json").write_text('{"images": [1]}')
    assert evaluate.main([*arguments, *(encoders if arguments[:1] == ["scores"] else [])]) == 2
    captured = capsys.readouterr().err
    assert message in captured and captured.count("\n") == 1
    assert not (tmp_path / "y").exists()


@pytest.mark.slow
def test_an_interruption_is_said(dreambench, tmp_path, monkeypatch, capsys):
    original = JediPipeline.__call__

    def stop(self, *arguments, **options):
        if (tmp_path / "out/images").is_dir():
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    monkeypatch.setattr(JediPipeline, "__call__", stop)
    assert dreambench("--batch-size", 2) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert len(images(tmp_path / "out")) == 2
    monkeypatch.setattr(JediPipeline, "__call__", original)
    assert dreambench("--batch-size", 2) == 0


def test_out_of_memory_is_one_line(dreambench, monkeypatch, capsys):
    def run_out(*arguments, **options):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(JediPipeline, "__call__", run_out)
    assert dreambench() == 2
    assert "a smaller --batch-size needs less" in capsys.readouterr().err


@pytest.mark.parametrize("command", evaluate.COMMANDS)
def test_each_subcommand_has_its_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main([command, "--help"])
    assert stop.value.code == 0
    assert "--out DIR" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["", *evaluate.COMMANDS])
def test_help_loads_no_torch(python, environment, command):
    code = f"import runpy, sys, contextlib\nsys.argv = ['evaluate.py', *{command.split()}, '--help']\n"
    code += "with contextlib.suppress(SystemExit): runpy.run_path('evaluate.py', run_name='__main__')"
    assert not loaded_by(python, environment, code) & {"torch", "diffusers", "transformers", "lightning"}
