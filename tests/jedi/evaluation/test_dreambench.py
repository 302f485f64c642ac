"""DreamBench's plan and rows, its tables beside published figures, and its chart."""

import argparse
import copy
import json

import pytest

from jedi.evaluation import score_report
from jedi.evaluation.commands.dreambench import add_arguments, select
from jedi.evaluation.dreambench import PUBLISHED, BenchmarkError, groups, plan, read_benchmark
from jedi.report.text import text_table
from tests import benchmarks_made_up as made_up


@pytest.fixture
def benchmark(tmp_path):
    return read_benchmark(made_up.dreambench(tmp_path / "data"), 3)


def arguments(**given) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return argparse.Namespace(**(vars(parser.parse_args(["--data", "d", "--out", "o"])) | given))


def test_the_plan(benchmark):
    items = plan(benchmark, num_images_per_prompt=2, no_reference=1, identifier="sks")
    assert len(items) == 3 * 2 * 2 + 3 * 2
    assert [x.id for x in items[:4]] == ["can/00-0", "can/00-1", "can/01-0", "can/01-1"]
    assert items[0].prompts == ("a sks cup on the beach",) and len(items[0].references) == 3
    assert items[12].id == "no_reference/can/00-0" and items[12].prompts == ("a cup on the beach",)
    assert items[12].references == ()
    assert len({x.seed for x in items}) == len(items)


def test_a_smaller_plan_makes_some_of_the_same_images(benchmark):
    large = {x.id: x for x in plan(benchmark)}
    small = plan(select(benchmark, arguments(subjects=["vase"], prompts=1)), num_images_per_prompt=1)
    assert [x.id for x in small] == ["vase/00-0", "no_reference/vase/00-0"]
    assert all(large[x.id] == x for x in small)
    assert plan(benchmark, seed=1)[0].seed != plan(benchmark)[0].seed


def test_the_rows(benchmark):
    can = groups(benchmark, "out", num_images_per_prompt=2, no_reference=1)[0]
    of = lambda row: [case for case in can.cases if case.row == row]
    assert [len(of(row)) for row in ("model", "no_reference", "copy", "oracle")] == [4, 2, 2, 6]
    assert of("model")[3].image.as_posix() == "out/images/can/01-1.png"
    assert of("model")[3].prompt == of("no_reference")[1].prompt == of("copy")[1].prompt == "a red cup"
    assert {case.image for case in of("copy")} == {can.references[0]}
    assert [case.image for case in of("oracle")] == list(can.real)
    assert all(case.leave_out and case.prompt is None for case in of("oracle"))
    assert not [case for case in groups(benchmark, "out", no_reference=0)[0].cases if case.row == "no_reference"]


@pytest.mark.parametrize(
    ("given", "names", "remark"),
    [
        ({"subjects": ["vase", "can"]}, ["can", "vase"], "2 of 3 subjects"),
        ({"subjects": ["1"]}, ["can"], "1 of 3 subjects"),
        ({"prompts": 1}, ["can", "cat", "vase"], "1 of 2 prompts a subject"),
        ({"num_images_per_prompt": 1}, ["can", "cat", "vase"], "1 image a prompt, not 4"),
    ],
)
def test_what_is_left_out_is_said(benchmark, given, names, remark):
    chosen = select(benchmark, arguments(**given))
    assert [x.name for x in chosen.subjects] == names
    assert set(chosen.remarks) - set(benchmark.remarks) == {remark}


def test_subjects_that_are_not_there(benchmark):
    assert select(benchmark, arguments()).remarks == benchmark.remarks
    with pytest.raises(ValueError, match="--subjects pot: not in d, which has can, cat, vase"):
        select(benchmark, arguments(subjects=["can", "pot"]))
    with pytest.raises(ValueError, match="--subjects 4: there are 3"):
        select(benchmark, arguments(subjects=["4"]))


def figures(mean: float) -> dict:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 4, "groups": 2}


def result(scale: float = 5.0, mean: float = 0.6, **changed) -> dict:
    """A result as scores.json holds it, with the field's encoders."""
    dino, clip, text = "DINO ViT-S/16, all real", "CLIP-I ViT-B/32, all real", "CLIP-T ViT-B/32"
    return {
        "benchmark": "DreamBench",
        "label": "mine",
        "references": "1 reference, Kosmos-G's list",
        "reference_count": "1",
        "deviations": [],
        "columns": [dino, clip, text, "copy"],
        "model": {"name": "mine", "sha256": {"unet": "ab"}},
        "settings": {"guidance_scale": scale, "image_guidance_scale": 1.0, "guidance": "two_branch", "mode": "one_way"},
        "rows": {
            "model": {dino: figures(mean), clip: figures(0.8), text: figures(0.3), "copy": figures(0.2)},
            "copy": {dino: figures(0.9), text: figures(0.2), "copy": figures(1.0)},
            "oracle": {dino: figures(0.77)},
        },
        **changed,
    }


def test_the_table_beside_published_figures():
    table = score_report.published_table(result())
    rows = dict(table.rows)
    assert rows["mine, 1 ref."]["DINO"].value == 0.6 and rows["mine, 1 ref."]["DINO"].low == 0.5
    assert (rows["mine, 1 ref."]["CLIP-I"].value, rows["mine, 1 ref."]["CLIP-T"].value) == (0.8, 0.3)
    assert rows["JeDi"] == {
        "references": "1", "DINO": 0.619, "CLIP-I": 0.782, "CLIP-T": 0.304,
        "source": "as reported by DreamCache, arXiv 2411.17786",
    }  # fmt: skip
    assert len(table.rows) == 1 + len(PUBLISHED)
    printed = text_table(table)
    assert "0.600 [0.500, 0.700]" in printed and "real images" in printed and "0.774" in printed
    assert "Not the full protocol" not in printed
    partial = score_report.published_table(result(deviations=["2 of 30 subjects"]))
    assert "Not the full protocol: 2 of 30 subjects." in text_table(partial)
    other = score_report.published_table(result(benchmark="DreamBench++"))
    assert "DreamBench++ has other images and prompts" in text_table(other)


def test_scores_of_other_encoders_are_not_put_among_published_ones():
    run = result()
    for row in run["rows"].values():
        row["DINO (random), all real"] = row.pop("DINO ViT-S/16, all real", figures(0))
    cells = dict(score_report.published_table(run).rows)["mine, 1 ref."]
    assert "DINO" not in cells and cells["CLIP-I"].value == 0.8


def test_the_table_of_all_rows():
    printed = text_table(score_report.scores_table(result(), [result(label="other", mean=0.7)]))
    lines = [line for line in printed.splitlines() if "[" in line]
    assert [line.split("  ")[0] for line in lines[:4]] == [
        "mine, 1 ref.", "other, 1 ref.", "the reference returned (copy)", "real images (oracle)",
    ]  # fmt: skip
    assert "0.770 [0.670, 0.870]" in lines[3]


def test_the_curve_joins_what_differs_in_guidance_only():
    assert score_report.chart(result(), []) == []
    slower = result(7.0, 0.5)
    slower["settings"]["mode"] = "mutual"
    (chart,) = score_report.chart(result(), [result(2.0, 0.7), slower])
    lines = [[(point.label, point.y) for point in series.points] for series in chart.series]
    assert lines == [[("2 / 1", 0.7), ("5 / 1", 0.6)], [("7 / 1", 0.5)], [("", 0.9)]]
    names = ["mine, 1 ref., mode one_way", "mine, 1 ref., mode mutual"]
    assert [series.name for series in chart.series[:2]] == names
    assert chart.series[-1].name == "the reference returned (copy)"
    assert (chart.x_label, chart.y_label) == ("CLIP-T ViT-B/32", "DINO ViT-S/16, all real")


def test_dino_comes_first():
    run = result()
    run["columns"] = run["columns"][1:] + run["columns"][:1]
    assert score_report.main_columns(run) == ("DINO ViT-S/16, all real", "CLIP-T ViT-B/32")
    assert score_report.main_columns({"columns": ["copy"]}) == (None, None)


def test_other_runs_are_read_and_checked(tmp_path):
    with pytest.raises(BenchmarkError, match=r"no scores\.json there"):
        score_report.read_scores(tmp_path, "DreamBench")
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(BenchmarkError, match="not readable as JSON"):
        score_report.read_scores(tmp_path, "DreamBench")
    (tmp_path / "scores.json").write_text(json.dumps(result()))
    assert score_report.read_scores(tmp_path, "DreamBench") == copy.deepcopy(result())
    with pytest.raises(BenchmarkError, match=r"expected scores of DreamBench\+\+, found DreamBench"):
        score_report.read_scores(tmp_path, "DreamBench++")


def test_runs_of_one_name_are_told_apart():
    mutual = result(7.0)
    mutual["settings"]["mode"] = "mutual"
    names = score_report.run_names([result(), result(label="x"), mutual, result(), result()])
    assert names == [
        "mine, 1 ref., guidance scale 5.0, mode one_way", "x, 1 ref.", "mine, 1 ref., guidance scale 7.0, mode mutual",
        "mine, 1 ref., guidance scale 5.0, mode one_way (2)", "mine, 1 ref., guidance scale 5.0, mode one_way (3)",
    ]  # fmt: skip
    table = score_report.scores_table(result(), [result(label="x", deviations=["2 of 30 subjects"])])
    assert "x, 1 ref.: 2 of 30 subjects." in table.note


def test_best_and_worst_are_of_several_subjects(benchmark):
    scored = groups(benchmark, "out", num_images_per_prompt=4)
    records = []
    for group, value in zip(scored, (0.1, 0.5, 0.7), strict=True):
        for i, case in enumerate(case for case in group.cases if case.row == "model"):
            record = {"row": "model", "id": case.id, "subject": group.subject, "prompt": case.prompt}
            records.append({**record, "scores": {"copy": value + i / 99}})
    (gallery,) = score_report.extremes({"images": records, "columns": ["copy"]}, scored)
    assert gallery.title == "Nearest to a copy" and len(gallery.labels) == 4
    best, references, worst, _ = gallery.rows
    folders = lambda row: [image.image.parent.name for image in row]
    assert folders(best) == ["vase"] * 3 + ["cat"] * 3 + ["can"]
    assert folders(worst) == ["can"] * 3 + ["cat"] * 3 + ["vase"]
    assert folders(references) == folders(best) and best[0].scores["score"] > best[-1].scores["score"]
    assert references[0].image == scored[2].references[0] and references[0].reference
