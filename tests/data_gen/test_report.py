"""The report of a data set: figures against a recount, images, thresholds, and what an interruption leaves."""

import json
import re
import shlex
from collections import Counter
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from data_gen import finish, report, run
from data_gen.__main__ import main
from data_gen.config import DataConfig, config_hash, load_config
from data_gen.plan import read_plan
from data_gen.report import page
from data_gen.report.collect import (
    BINS,
    EXAMPLES,
    Spread,
    Stored,
    Survey,
    Threshold,
    even_edges,
    numbers,
    quantiles,
    read_rejected,
    take_survey,
    thresholds,
)
from data_gen.sources import SOURCES
from data_gen.sources.collage import CollageSettings
from data_gen.stages.filter import FilterSets
from data_gen.stages.filters.likeness import IdentitySettings
from data_gen.stages.filters.quality import SharpnessSettings
from data_gen.stages.segment import SegmentSettings
from tests.data_gen import scored
from tests.data_gen.conftest import all_bytes, config_of, read_sets, small_config
from tests.data_gen.pipelines import write_book
from tests.data_gen.scored import COPY, HOSTILE, ORIGINAL, RED, scored_config


@pytest.fixture(scope="module", autouse=True)
def parts():
    forget = scored.register()
    yield
    forget()


@pytest.fixture(scope="module")
def made(tmp_path_factory, parts) -> DataConfig:
    """A finished data set with scores, drops and a near-duplicate. Read only."""
    config = scored_config(tmp_path_factory.mktemp("report") / "made")
    run.run(config)
    return config


LITTLE = {"sets": 12, "heldout_sets": 4, "contact_sheet_rows": 3}


@pytest.fixture(scope="module")
def little(tmp_path_factory, parts) -> dict[str, bytes]:
    """All bytes of a smaller one."""
    config = scored_config(tmp_path_factory.mktemp("report") / "little", **LITTLE)
    run.run(config)
    return all_bytes(Path(config.out))


def read(config: DataConfig, name: str) -> str:
    return (Path(config.out) / name).read_text(encoding="utf-8")


def counted(config: DataConfig) -> dict:
    return json.loads(read(config, "statistics.json"))


def samples(config: DataConfig, split: str) -> list[dict]:
    return read_sets(Path(config.out) / split)


def unit_rows(config: DataConfig) -> list[tuple[dict, bool]]:
    """All rows of the units' manifests, and whether the set was dropped there."""
    plan = read_plan(config)
    manifests = [plan.manifest(unit) for unit in plan.units]
    return [(row, dropped) for m in manifests for dropped in (False, True) for row in m[("sets", "dropped")[dropped]]]


# ---- figures


def test_the_statistics_are_those_of_a_recount(made):
    found = counted(made)
    assert (found["read_from"], found["units"], found["units_done"]) == ("shards", 7, 7)
    for split in ("train", "heldout"):
        sets, part = samples(made, split), found["splits"][split]
        assert len(sets) == part["sets"] >= 5
        assert part["images"] == sum(len(one["captions"]) for one in sets)
        assert part["sets_by_images"] == {
            str(n): count for n, count in sorted(Counter(len(one["captions"]) for one in sets).items())
        }
        assert part["classes"] == Counter(one["subject"]["class"] for one in sets)
        ids = {one["subject"]["id"] for one in sets}
        assert sum(part["subjects_by_class"].values()) == part["subjects"] == len(ids)
        assert part["licences"] == {"CC0-1.0": len(sets)}
        words = Counter(len(text.replace(",", "").split()) for one in sets for text in one["captions"])
        assert part["captions_by_words"] == {str(n): count for n, count in words.items()}
        assert part["made_by"] == {"the/painter": sum("provenance" in one for one in sets)}
        assert part["attributes"]["background"] == {"noise": part["images"]}
    assert found["subjects_in_both_splits"] == []


def test_drops_are_counted_by_stage_and_reason(made):
    dropped = Counter((row["key"].split("-")[0], row["stage"], row["reason"]) for row, gone in unit_rows(made) if gone)
    dropped["train", "finish", "near-duplicate of another set"] += 1
    found = {(x["split"], x["stage"], x["reason"]): x["sets"] for x in counted(made)["drops"]}
    assert found == dropped
    assert found["train", "source", "dull"] == 1 and found["train", "filter", f"redness below {RED}"] > 5


def test_scores_are_told_by_quantiles_and_thresholds(made):
    found = counted(made)["scores"]
    rows = [(row["scores"]["redness"]["mean"], dropped) for row, dropped in unit_rows(made) if row["scores"]]
    values = [value for value, _ in rows]
    score = found["redness.mean"]
    assert (score["of"], score["kept"], score["dropped"]) == ("sets", *Counter(gone for _, gone in rows).values())
    assert score["quantiles"]["median"] == float(np.quantile(values, 0.5, method="inverted_cdf"))
    assert (score["quantiles"]["least"], score["quantiles"]["most"]) == (min(values), max(values))
    failing = sum(value < RED for value in values)
    assert score["thresholds"] == [{"key": "filter.redness.min_share", "value": RED, "failing": failing}]
    assert found["reds"]["of"] == "images"
    assert found["reds"]["kept"] == sum(row["n"] for row, dropped in unit_rows(made) if not dropped)


def test_a_histogram_holds_every_value_and_a_threshold_is_an_edge(made):
    plan = read_plan(made)
    limits = thresholds(made)
    spread = take_survey(Stored(plan), limits).spreads["redness.mean"]
    edges, counts, outside = spread.bins(limits["redness.mean"])
    kept, dropped = counts["kept"], counts["dropped"]
    assert len(edges) <= BINS + 3 and outside == 0
    assert (sum(kept), sum(dropped)) == (spread.kept.total(), spread.dropped.total())
    assert min(abs(edge - RED) for edge in edges) < 1e-9
    below = [i for i, edge in enumerate(edges[1:]) if edge <= RED + 1e-9]
    assert below and not any(kept[i] for i in below) and sum(dropped[i] for i in below) > 5


def test_examples_are_the_nearest_on_both_sides(made):
    survey = take_survey(Stored(read_plan(made)), thresholds(made))
    (limit,) = thresholds(made)["redness.mean"]
    rows = [(row["scores"]["redness"]["mean"], row["key"], gone) for row, gone in unit_rows(made) if row["scores"]]
    for dropped in (False, True):
        wanted = [(abs(x - RED), key) for x, key, gone in rows if gone == dropped == (x < RED) and key != COPY]
        found = [(abs(score - RED), place.key) for score, place in survey.nearest["redness.mean", limit, dropped]]
        assert [x for x, _ in found] == [x for x, _ in sorted(wanted)][: EXAMPLES[False]]
        assert {key for _, key in found} <= {key for _, key in wanted}
    (most,) = thresholds(made)["reds"]
    images = list(survey.nearest["reds", most, True])
    assert len(images) == EXAMPLES[True]
    for score, place in images:
        row = next(row for row, _ in unit_rows(made) if row["key"] == place.key)
        assert row["scores"]["reds"][place.image] == score > 0.3
        tar = Path(made.out) / "units" / f"{place.unit}.dropped.tar"
        shown = np.asarray(read_rejected(tar, place.key, place.n)[place.image])
        assert shown[..., 0].mean() / 255 == pytest.approx(score, abs=1e-3)


def test_images_left_out_alone_are_in_the_histogram_too(tmp_path, made):
    reds = sorted(next(row["scores"]["reds"] for row, _ in unit_rows(made) if row["key"] == "train-00000006"))
    most = (reds[-2] + reds[-1]) / 2  # one image of this set fails
    config = scored_config(tmp_path, sets=40, heldout_sets=0)
    config.filter.reds.max_share = most
    config.filter.drop_images = True
    run.run(config)
    sets, score = samples(config, "train"), counted(config)["scores"]["reds"]
    gone = [red for one in sets for red in one["scores"].get("left_out", {}).get("reds", [])]
    assert gone and all(red > most for red in gone)
    whole = [red for row, dropped in unit_rows(config) if dropped and row["scores"] for red in row["scores"]["reds"]]
    assert score["dropped"] == len(gone) + len(whole)
    assert score["thresholds"][0]["failing"] == sum(red > most for red in [*gone, *whole])
    said = f"| single images left out of sets that stayed | filter: too red | {len(gone)} | 0 | - |"
    assert said in read(config, "DATA_CARD.md")
    assert "single images left out of sets that stayed" in read(config, "report/report.html")


# ---- scores, in parts


def test_quantiles_are_numpy_s():
    values = np.random.default_rng(0).integers(0, 50, 400) / 7
    shares = [0, 0.01, 0.25, 0.5, 0.9, 1]
    assert quantiles(Counter(values.tolist()), shares) == np.quantile(values, shares, method="inverted_cdf").tolist()
    assert np.isnan(quantiles({}, [0.5])).all()


def test_values_take_little_memory_and_cosines_are_kept_exactly():
    spread, values = Spread(True), np.random.default_rng(0).normal(500, 200, 20_000)
    for value in values:
        spread.add(float(value), False, ())
    assert spread.kept.total() == 20_000 and len(spread.kept) < 12_000
    assert spread.quantiles([0.5])[0] == pytest.approx(np.median(values), rel=1e-3)
    spread.add(0.7123, True, ())
    assert list(spread.dropped) == [0.7123]


@pytest.mark.parametrize(
    ("low", "high", "anchor", "values", "edges"),
    [
        (0, 5, None, {0: 1, 5: 1}, [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5]),  # whole numbers
        (0.0, 4.0, None, {0.5: 1}, [i / 10 for i in range(41)]),
        (0.25, 4.25, 0.5, {0.5: 1.5}, [i / 10 for i in range(2, 44)]),
        (0.5, 0.5, None, {0.5: 1}, [0.5, 0.5125]),
    ],
)
def test_edges(low, high, anchor, values, edges):
    assert even_edges(low, high, anchor, values) == pytest.approx(edges)


def test_a_threshold_far_from_all_values_is_not_drawn_and_what_is_far_out_is_counted():
    spread, limit = Spread(False), Threshold("x.min_score", -50.0, True)
    for value in [*np.linspace(0.2, 0.6, 1000), 900.0]:
        spread.add(float(value), False, (limit,))
    edges, counts, outside = spread.bins((limit,))
    assert edges[0] > 0 and edges[-1] < 1 and sum(counts["kept"]) == 1001 and outside >= 1
    assert spread.failing[limit] == 0


def test_the_first_of_equals_are_the_examples():
    survey = Survey(1, {"x": (limit := Threshold("a.min_x", 0.0, True),)})
    for key, value in enumerate([5, 2, 2, 9, 2, 2, 1]):
        survey.add({"key": str(key), "scores": {"x": value}}, False, "unit", 3)
    found = survey.nearest["x", limit, False]
    assert EXAMPLES[False] == 3 and [(score, place.key) for score, place in found] == [(1, "6"), (2, "1"), (2, "2")]


def test_scores_of_all_shapes_become_numbers():
    scores = {"a": 1, "b": {"mean": 0.5, "least": None}, "c": [0.1, None, 0.3], "d": None, "e": "word", "f": True}
    assert list(numbers(scores)) == [("a", 1.0, None), ("b.mean", 0.5, None), ("c", 0.1, 0), ("c", 0.3, 2)]
    assert list(numbers({"c": [0.1, 0.3]}, frozenset({"c.mean"}))) == [("c.mean", 0.2, None)]


def test_thresholds_are_those_of_the_parts_that_are_named():
    plain = config_of("x", source="folder")
    assert thresholds(plain) == {}
    judged = FilterSets.section()(identity=IdentitySettings(min_mean=0.6), sharpness=SharpnessSettings(min_score=70.0))
    stages = config_of(
        "x",
        source="folder",
        stages=["segment", "filter"],
        filter=judged,
        segment=SegmentSettings(model="border", max_border=None),
    )
    found = {name: [(x.key, x.value, x.least) for x in limits] for name, limits in thresholds(stages).items()}
    assert found == {
        "mask_share": [("segment.share", 0.02, True), ("segment.share", 0.9, False)],
        "identity.mean": [("filter.identity.min_mean", 0.6, True)],
        "sharpness": [("filter.sharpness.min_score", 70.0, True)],
        "duplicates.copy": [("filter.duplicates.max_copy", 0.75, False)],
    }


# ---- the page


def test_the_page_is_one_file_that_can_do_nothing(made):
    html = read(made, "report/report.html")
    assert "<script" not in html and "http-equiv" in html and not re.search(r'(src|href)="https?:', html)
    assert all(source.startswith("data:image/") for source in re.findall(r'src="(.{20})', html))
    assert HOSTILE in unescape(html) and "{{ 7*7 }}" in html
    assert re.findall(r'href="(\.\./[^"]+)"', html) == ["../DATA_CARD.md", "../logs/throughput.html"]
    assert all((Path(made.out) / "report" / link).is_file() for link in ("../DATA_CARD.md", "../logs/throughput.html"))


def test_the_page_shows_what_it_should(made):
    html = read(made, "report/report.html")
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    assert titles == [
        "What it is", "Counts", "Training sets", "Held-out sets", "Classes", "Words in a caption",
        "Attributes of the images", "Why sets were dropped", "Scores", "Score redness.mean",
        "Score redness.mean: both sides of min_share 0.4", "Score reds", "Score reds: both sides of max_share 0.3",
        "Score sharpness", "Score sharpness: both sides of min_score 0", "Near-duplicates across sets",
        "Near-duplicates across sets: images", "Licences", "How to make it again", "Details",
    ]  # fmt: skip
    assert f"{COPY} is nearly {ORIGINAL}" in html
    assert html.count(">min_share 0.4</text>") == 2  # the threshold's line, drawn wide and narrow
    assert "min_score 0 is outside the range of the chart" in html
    assert "Left out, since they have too many values: file." in html
    assert config_hash(made) in html and read_plan(made).hash in html


def test_sets_are_shown_evenly_over_the_data(made):
    stored = Stored(read_plan(made))
    keys = [sample["key"] for sample in samples(made, "train")]
    shown = [key for _, key in stored.spread("train", 4)]
    assert shown == [keys[i * len(keys) // 4] for i in range(4)]
    assert [key for _, key in stored.spread("train", 1000)] == keys


def test_a_near_duplicate_is_shown_beside_what_it_is_like(made):
    tar = Path(made.out) / finish.EXAMPLES
    ours, other = read_rejected(tar, COPY, 3), next(x for x in samples(made, "train") if x["key"] == ORIGINAL)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(ours, other["photos"], strict=True))
    assert COPY not in {x["key"] for x in samples(made, "train")}


# ---- the card


def test_the_card_tells_counts_licences_models_and_hashes(made):
    card, found = read(made, "DATA_CARD.md"), counted(made)
    train, heldout = (found["splits"][split] for split in ("train", "heldout"))
    assert f"| sets | {train['sets']} | {heldout['sets']} |" in card
    assert f"| CC0-1.0 | {train['sets']} | {heldout['sets']} |" in card
    assert "- Models: the/painter: had a part in" in card
    assert f"| filter | redness below {RED} | " in card and "| source | dull | 1 | 0 | 2.00% |" in card
    assert (
        f"filter.redness.min_share={RED}: {found['scores']['redness.mean']['thresholds'][0]['failing']} past it" in card
    )
    assert "pots \\| pans" in card  # the end of no cell
    assert config_hash(made) in card and read_plan(made).hash in card and "0" * 64 in card
    assert str(made.out) not in card
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in card.split("## Classes")[1].splitlines() if "|" in line]
    assert len(set(cells[:4])) == 1


@pytest.mark.slow
def test_the_card_s_command_makes_the_same_data_set(made, small):
    for config in (made, small):
        command = page.command(config)
        assert command in read(config, "DATA_CARD.md")
        words = shlex.split(command)
        assert words[:5] == ["python", "-m", "data_gen", "run", "out=FOLDER"]
        again = load_config(None, words[4:])
        assert config_hash(again) == config_hash(config)


def test_settings_of_all_kinds_are_written_as_they_are_read():
    from data_gen.sources.folder import FolderSettings
    from jedi_toy.emoji_config import EmojiSettings

    folder = FolderSettings(path="/a b/ü", licence="yes", caption='it\'s {a_name}: "so" # 1', heldout_fraction=1e-05)
    emoji = EmojiSettings(poses=["tilted left"], tilt=[1.0, 2.5], vary=[], mixture=[{"share": 2, "poses": ["upright"]}])
    more = {"stages": ["resize"], "heldout_sets": 0}
    for config in (
        config_of("x", source="folder", folder=folder, **more),
        config_of("x", "jedi_toy.emoji", source="emoji", emoji=emoji, seed=2**40),
    ):
        again = load_config(None, shlex.split(page.command(config))[4:])
        assert config_hash(again) == config_hash(config)


def test_prompts_and_models_of_a_prompted_data_set(tmp_path):
    write_book(tmp_path)
    book = json.loads((tmp_path / "prompts.json").read_text())
    book |= {"counts": {"answers": 7, "refused subjects: twice": 3}, "backend": {"backend": "openai", "model": "llm"}}
    (tmp_path / "prompts.json").write_text(json.dumps(book))
    judged = FilterSets.section()(identity=IdentitySettings(encoder="dinov2:here"))
    config = config_of(tmp_path, source="collage", stages=["split", "filter"], filter=judged)
    config.collage = CollageSettings(model="a/b")
    statistics = {"splits": {"train": {"made_by": {"a/b": 5}}, "heldout": {"made_by": {"a/b": 2}}}}
    statistics |= {"subjects_in_both_splits": ["dog"]}
    found = page.models(config, statistics)
    assert found == {
        "a/b": "had a part in 7 sets (their provenance says which)",
        "dinov2:here": "filter.identity.encoder",
        "llm": "wrote the prompts",
    }
    assert page.prompts(config)["categories"] == {"thing": 10}
    assert page.prompts(config)["counts"]["refused subjects: twice"] == 3
    limits = " ".join(page.limits(config, statistics))
    assert "made by a model" in limits and "dog" in limits and "near-duplicates across sets are possible" in limits
    assert "are below 0.1" in SOURCES.get("collage").heldout_rule(config.collage)


# ---- times


def test_throughput_adds_up_the_logs_and_stands_apart(made, tmp_path):
    logs = [json.loads(path.read_text()) for path in sorted(Path(made.out).glob("logs/*-*.json"))]
    assert len(logs) == 7
    found = json.loads(read(made, "logs/throughput.json"))
    assert found["images"] == sum(log["images"] for log in logs) and found["sets_begun"] == 50
    for name in ("source", "filter", "encode"):
        assert found["seconds"][name] == pytest.approx(sum(log["seconds"][name] for log in logs), abs=2e-3)
    html = read(made, "logs/throughput.html")
    assert "Throughput by stage" in html and 'href="../report/report.html"' in html


@pytest.mark.parametrize("sets", [3, 6])
def test_a_data_set_without_logs_or_sets_is_reported_too(tmp_path, sets):
    config = scored_config(tmp_path, sets=sets, heldout_sets=0)  # the first three sets are dropped
    run.run(config)
    assert counted(config)["read_from"] == "shards" and (counted(config)["splits"]["train"]["sets"] > 0) == (sets > 3)
    whole = all_bytes(tmp_path)
    for path in (tmp_path / "logs").iterdir():
        path.unlink()
    report.write_report(config, read_plan(config))
    assert json.loads(read(config, "logs/throughput.json"))["units"] == 0
    assert not (tmp_path / "logs" / "throughput.html").exists()
    assert all_bytes(tmp_path) == whole


# ---- unfinished and interrupted


def test_a_report_before_anything_is_made_says_so(tmp_path, capsys):
    config = scored_config(tmp_path)
    plan = run.prepare(config)
    report.write_report(config, plan)
    said = "Nothing is packed and no set can be read yet: 0 of 7 units are done."
    assert said in read(config, "report/report.html") and said in read(config, "DATA_CARD.md")
    assert report.is_reported(config)


@pytest.mark.slow
def test_a_report_on_the_way_is_of_the_units_that_are_done(tmp_path, little):
    config = scored_config(tmp_path / "half", **LITTLE)
    plan = run.prepare(config)
    run.make_units(config, plan, [unit for unit in plan.units if unit.name in ("train-000000", "heldout-000000")])
    report.write_report(config, plan)
    said = "Not finished: 2 of 3 units are done and no shard is packed. What follows is read from the units."
    html, found = read(config, "report/report.html"), counted(config)
    assert said in html and "Training sets" in html and "both sides of min_share" in html
    assert (found["read_from"], found["units_done"]) == ("units", 2)
    assert found["splits"]["train"]["sets"] == json.loads(read(config, "units/train-000000.json"))["counts"]["sets"]
    run.run(config)
    assert all_bytes(tmp_path / "half") == little


def test_a_report_on_the_way_is_not_taken_for_the_last_one(tmp_path, monkeypatch, little):
    """A kill between the last shard and the report, where an earlier report on less stands there whole."""

    def killed(*given):
        raise KeyboardInterrupt

    config = scored_config(tmp_path / "early", **LITTLE)
    plan = run.prepare(config)
    report.write_report(config, plan)
    with monkeypatch.context() as patch:
        patch.setattr(run, "write_report", killed)
        with pytest.raises(KeyboardInterrupt):
            run.run(config)
    assert not finish.missing_shards(plan, finish.layout(config, plan)[0]) and not report.is_reported(config)
    run.run(config)
    assert all_bytes(tmp_path / "early") == little


@pytest.mark.slow
@pytest.mark.parametrize("name", [*report.FILES, "logs/throughput.html", finish.EXAMPLES, "finish.dropped.json"])
def test_a_kill_while_a_file_is_written_is_mended_by_the_same_command(tmp_path, monkeypatch, little, name):
    config = scored_config(tmp_path / "killed", **LITTLE)

    def replace(self, target, plain=Path.replace):
        if str(target).endswith(f"killed/{name}"):
            raise KeyboardInterrupt
        return plain(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            run.run(config)
    assert not (tmp_path / "killed" / name).exists() and not report.is_reported(config)
    run.run(config)
    assert all_bytes(tmp_path / "killed") == little


@pytest.mark.slow
@pytest.mark.parametrize("name", report.FILES)
def test_a_lost_file_of_the_report_is_written_again(tmp_path, little, name):
    config = scored_config(tmp_path / "lost", **LITTLE)
    run.run(config)
    (tmp_path / "lost" / name).unlink()
    run.run(config)
    assert all_bytes(tmp_path / "lost") == little


@pytest.mark.slow
def test_the_verb_writes_the_same_again_and_names_the_page(tmp_path, capsys):
    arguments = [
        f"out={tmp_path}",
        "extensions=[jedi_toy.emoji]",
        "source=emoji",
        "sets=6",
        "heldout_sets=2",
        "workers=1",
        "sets_per_unit=3",
    ]
    assert main(["run", *arguments]) == 0
    whole = all_bytes(tmp_path)
    capsys.readouterr()
    assert main(["report", *arguments]) == 0
    assert f"look at {tmp_path}/report/report.html" in capsys.readouterr().out
    assert all_bytes(tmp_path) == whole


def test_a_report_takes_only_a_few_images(monkeypatch, made):
    """Of each set its JSON is read once; images are those of the rows and examples."""
    config, opened = made, Counter()
    stored = Stored(read_plan(config))
    plain = report.gallery.read_set

    def counting(path, key):
        opened[key] += 1
        return plain(path, key)

    monkeypatch.setattr(report.gallery, "read_set", counting)
    survey = take_survey(stored, thresholds(config))
    statistics = report.statistics(stored, survey)
    assert not opened
    report.data_report(config, stored, survey, statistics, report.choose_sets(stored, config.contact_sheet_rows))
    assert 0 < sum(opened.values()) <= 6 + 3 * EXAMPLES[True] + finish.PAIRS


def test_sets_of_several_subjects_are_counted_by_each_of_them(tmp_path):
    from jedi_toy.emoji_config import EmojiSettings

    config = small_config(
        tmp_path, sets=6, heldout_sets=0, emoji=EmojiSettings(mixture=[{"share": 1, "subjects": [2]}])
    )
    run.run(config)
    part = counted(config)["splits"]["train"]
    ids = {one["id"] for sample in samples(config, "train") for one in sample["subject"]["subjects"]}
    assert part["sets_of_several_subjects"] == 6 and part["subjects"] == len(ids) > 6
    assert "sets of several subjects" in read(config, "report/report.html")
