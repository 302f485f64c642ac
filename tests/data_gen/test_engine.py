"""The data engine from prompts to shards, every stage on small models of the real classes: what arrives, that a kill at
any moment changes no byte, and that any number of processes share one plan."""

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from data_gen import run
from data_gen.__main__ import main
from data_gen.config import DataConfig, load_config
from data_gen.plan import read_plan
from data_gen.sources.shared_attention import SharedAttention
from data_gen.stages.augment import Augment
from data_gen.stages.caption import Caption
from data_gen.stages.filters.quality import Sharpness
from data_gen.status import status
from jedi.data import SetDataset, SetIndex
from jedi.io.config import ConfigError
from tests.data_gen.conftest import all_bytes, read_sets
from tests.data_gen.kills import killed_at
from tests.data_gen.pipelines import save_flux, save_inpainting
from tests.encoders import save_captioner, save_clip, save_dinov2
from tests.forked import start

STEPS = [(SharedAttention, "_set"), (Sharpness, "judge"), (Augment, "process"), (Caption, "process")]


@pytest.fixture(scope="session")
def models(tiny_base, tmp_path_factory) -> Path:
    """A folder with a model for every stage."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "text2image").symlink_to(tiny_base)
    save_inpainting(folder / "inpaint")
    save_dinov2(folder / "dinov2")
    save_clip(folder / "clip")
    save_captioner(folder / "captioner")
    return folder


@pytest.fixture(scope="session")
def settings(models) -> list[str]:
    """key=value for 5 training and 2 held-out sets of 3 images: prompts, shared attention, and all stages but split.
    The subject is said to be in the middle, for the images show noise."""
    return [
        "source=shared_attention", "stages=[segment, filter, augment, compose, caption, resize]",
        "extensions=[tests.data_gen.middle]", "segment.model=middle",
        "sets=5", "heldout_sets=2", "images_per_set=3", "resolution=24", "sets_per_unit=3", "sets_per_shard=5",
        "workers=1", "device=cpu", "prompts.subjects=24", "prompts.scenes_per_subject=4",
        f"shared_attention.model={models}/text2image", "shared_attention.num_inference_steps=2",
        "shared_attention.masked=false",
        f"filter.identity.encoder=dinov2:{models}/dinov2", "filter.identity.min_mean=0.955",
        f"filter.text.encoder=clip:{models}/clip", "filter.text.min_score=-1", "filter.sharpness.min_score=1",
        f"augment.inpaint.model={models}/inpaint", "augment.inpaint.num_inference_steps=2",
        "compose.share=1", "compose.backgrounds.painted=true", "caption.method=captioner",
        f"caption.captioner=blip:{models}/captioner", "finish.duplicate_distance=0",
    ]  # fmt: skip


def configured(settings: list[str], out: Path, *changes: str) -> DataConfig:
    return load_config(None, [f"out={out}", *settings, *changes])


@pytest.fixture(scope="session")
def made(settings, tmp_path_factory) -> Path:
    """The data set, made in one go. Read only."""
    out = tmp_path_factory.mktemp("engine") / "made"
    run.run(configured(settings, out))
    return out


@pytest.mark.slow
def test_every_stage_leaves_its_mark(made, models):
    sets = read_sets(made / "train")
    alone = [one for one in sets if "subjects" not in one["subject"]]
    assert len(alone) >= 3 and len(sets) > len(alone)
    book = {subject["name"]: subject for subject in json.loads((made / "prompts.json").read_text())["subjects"]}
    for one in alone:
        subject, provenance = book[one["subject"]["name"]], one["provenance"]
        assert set(provenance["prompts"]) <= set(subject["scenes"]) and len(provenance["seeds"]) == 3
        assert provenance["model"] == f"{models}/text2image" and provenance["segmenter"] == "middle"
        assert {"identity", "text", "sharpness", "duplicates"} <= set(one["scores"])
        assert all(photo.size == (24, 24) and photo.mode == "RGB" for photo in one["photos"])
        assert all(np.isin(np.asarray(mask), (0, 255)).all() for mask in one["masks"])
        assert {image["caption_from"] for image in one["images"]} <= {"captioner", "prompt"}
        for image, mask in zip(one["images"], one["masks"], strict=True):
            assert tuple(image["box"]) == (mask.getbbox() or (0, 0, 0, 0))
    assert any("augmented" in image for one in alone for image in one["images"])
    for one in sets:
        if "subjects" in one["subject"]:
            assert len(one["subject"]["subjects"]) == 2 and one["references"] == [0, 1]


@pytest.mark.slow
def test_what_was_dropped_is_counted_with_its_reason(made):
    dropped = [row for path in made.glob("units/*-??????.json") for row in json.loads(path.read_text())["dropped"]]
    counted = json.loads((made / "statistics.json").read_text())["splits"]
    assert dropped and all(row["key"] and row["reason"] for row in dropped)
    of_filters = [row for row in dropped if row["reason"].startswith(("identity", "duplicates"))]
    assert of_filters and all(row["scores"]["identity"] for row in of_filters)
    listed = sum(sum(split["dropped"].values()) for split in counted.values())
    assert listed == len(dropped) + len(json.loads((made / "finish.json").read_text())["duplicates"])


@pytest.mark.slow
def test_sets_that_show_images_again_on_purpose_are_no_duplicates(made):
    """Composed sets hold their halves' images as references; images that come twice by mistake are dropped."""
    several = [one for one in read_sets(made / "train") if "subjects" in one["subject"]]
    manifests = [json.loads(path.read_text()) for path in made.glob("units/*-??????.json")]
    rows = {row["key"]: row for manifest in manifests for row in manifest["sets"]}
    assert several
    for composed in several:
        own, halves = rows[composed["key"]], composed["provenance"]["compose"]["sets"]
        assert own["made_from"] == halves and set(own["hashes"]) & {x for key in halves for x in rows[key]["hashes"]}


@pytest.mark.slow
def test_the_same_images_again_are_dropped_and_what_they_repeat_is_named(settings, tmp_path):
    changes = ["prompts.subjects=24", "stages=[caption, resize]", "caption.method=keep"]
    config = configured(settings, tmp_path / "out", *changes)
    config.finish.duplicate_distance = 64  # everything is like everything
    run.run(config)
    told = json.loads((tmp_path / "out" / "finish.json").read_text())["duplicates"]
    assert {row["of"] for row in told} == {"train-00000000"} and len(told) == 6
    assert len(read_sets(tmp_path / "out" / "train")) == 1


@pytest.mark.slow
def test_training_reads_the_shards(made):
    sets = SetDataset(SetIndex.read(made, "train"))
    assert len(sets) == len(read_sets(made / "train"))
    assert sets.image(0, 0).size == (24, 24)


@pytest.mark.slow
def test_the_plan_names_versions_and_inputs(made):
    plan = json.loads((made / "plan.json").read_text())
    assert {"torch", "diffusers", "transformers", "pillow", "numpy"} <= set(plan["versions"])
    assert set(plan["inputs"]) == {"prompts.json"}
    assert "emoji" not in plan["config"] and "prompts" in plan["config"]  # what plays no part is not frozen


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        *(f"step {number}" for number in (1, 3, 5, 6, 13)),
        *(f"write {number}" for number in (1, 20, 25, 27, 30, 40)),
        *(f"rename {number}" for number in (1, 2, 4, 5, 8, 12)),
        *(f"renamed {number}" for number in (1, 2, 3, 10)),
    ],
)
def test_a_kill_at_any_moment_changes_no_byte(made, settings, tmp_path, moment):
    """Prompts, plan, model, stages, units, shards, report: the same command again ends at the same bytes."""
    config = configured(settings, tmp_path / "killed")
    killed_at(moment, lambda: run.run(config), STEPS)
    run.run(config)
    assert all_bytes(tmp_path / "killed") == all_bytes(made)


@pytest.mark.slow
def test_parts_in_processes_of_their_own_share_the_plan(made, settings, tmp_path):
    """Three tasks of an array at once, one of which is killed, then two: the bytes of one process."""
    arguments = [f"out={tmp_path / 'parts'}", *settings]
    assert main(["prompts", *arguments]) == 0 and main(["plan", *arguments]) == 0
    part = lambda i: lambda: main(["run", "--part", f"{i}/3", *arguments])
    with (tmp_path / "said").open("w") as said:
        tasks = [start(part(i), said.fileno()) for i in range(3)]
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("parts/units/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    tasks[0].kill()
    for task in tasks:
        task.join()
    assert [task.exitcode for task in tasks[1:]] == [0, 0], (tmp_path / "said").read_text()
    for i in range(2):
        assert main(["run", "--part", f"{i}/2", *arguments]) == 0
    assert main(["finish", *arguments]) == 0
    assert all_bytes(tmp_path / "parts") == all_bytes(made)


@pytest.mark.slow
def test_two_workers_make_the_same_bytes(made, settings, tmp_path):
    run.run(configured(settings, tmp_path / "two", "workers=2"))  # in interpreters of their own
    assert all_bytes(tmp_path / "two") == all_bytes(made)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd", "flux"])
def test_the_papers_way_from_collages(models, tiny_base, tmp_path, family):
    """Prompts, collages, panels, captions, shards. The images are noise, so `split` is told to see seams in it."""
    model = tiny_base if family == "sd" else save_flux(tmp_path / "flux")
    settings = [
        "source=collage", "stages=[split, caption, resize]", "sets=3", "heldout_sets=1", "images_per_set=4",
        "resolution=16", "prompts.subjects=24", f"collage.model={model}", "collage.width=64", "collage.height=64",
        "collage.num_inference_steps=2", "split.min_side=8", "split.first_seam_evidence=-10",
        "split.seam_evidence=-10", "split.gutter_evidence=10", "resize.min_side=8", "device=cpu",
    ]  # fmt: skip
    run.run(configured(settings, tmp_path / "out"))
    sets = read_sets(tmp_path / "out" / "train")
    assert len(sets) == 3
    for one in sets:
        assert 2 <= len(one["photos"]) <= 4 and {photo.size for photo in one["photos"]} == {(16, 16)}
        assert all(one["subject"]["name"] in caption for caption in one["captions"])
        left, top, right, bottom = one["images"][0]["panel"]
        assert 0 <= left < right <= 64 and 0 <= top < bottom <= 64
        assert one["provenance"]["panels_found"] >= 2 and one["provenance"]["model"] == str(model)


def test_noise_that_is_no_collage_is_dropped_and_counted(tiny_base, tmp_path, capsys):
    settings = ["source=collage", "stages=[split, resize]", "sets=2", "heldout_sets=0", "prompts.subjects=12"]
    model = [f"collage.model={tiny_base}", "collage.num_inference_steps=1", "device=cpu", "resolution=16"]
    assert main(["run", f"out={tmp_path / 'out'}", *settings, *model]) == 2
    said = capsys.readouterr()
    assert "holds no set" in said.err and "no collage" in said.out + said.err


@pytest.mark.slow
def test_models_are_loaded_once(settings, tmp_path, monkeypatch):
    import data_gen.models
    import jedi.encoders

    loaded = []
    pipeline, encoder = data_gen.models.load_pipeline, jedi.encoders.load_encoder
    monkeypatch.setattr(data_gen.models, "load_pipeline", lambda *given: loaded.append(given[0]) or pipeline(*given))
    monkeypatch.setattr(jedi.encoders, "load_encoder", lambda *given: loaded.append(given[0]) or encoder(*given))
    run.run(configured(settings, tmp_path / "out"))
    assert len(loaded) == len(set(loaded)) == 4  # two pipelines, two encoders, three units


@pytest.mark.slow
def test_prompts_that_changed_since_the_plan_are_refused(made, settings, tmp_path, capsys):
    out = tmp_path / "changed"
    arguments = [f"out={out}", *settings]
    assert main(["plan", *arguments]) == 0
    book = out / "prompts.json"
    book.write_text(book.read_text().replace('"scenes"', '"scenes" '))
    assert main(["run", *arguments]) == 2
    assert "prompts.json changed since the plan was made" in capsys.readouterr().err


@pytest.mark.slow
def test_a_plan_that_changes_under_a_running_task_is_refused(settings, tmp_path):
    """The folder gets another plan while a unit is being made: the unit is not written among the other plan's."""
    config = configured(settings, tmp_path / "out")
    plan = run.prepare(config)
    file = tmp_path / "out" / "plan.json"
    file.write_text(file.read_text().replace(plan.hash, "0" * 64))
    with pytest.raises(ConfigError, match=r"plan\.json is not the plan that this run began with"):
        run.make_units(config, plan, plan.units[:1])
    assert not list((tmp_path / "out" / "units").glob("*.tar"))


@pytest.mark.slow
def test_status_tells_pace_and_time_left(settings, tmp_path):
    config = configured(settings, tmp_path / "out")
    plan = run.prepare(config)
    run.make_units(config, plan, plan.units[:2])
    for i, unit in enumerate(plan.units[:2]):
        os.utime(plan.tar(unit).with_suffix(".json"), (1000.0 + 30 * i,) * 2)
    state = status(config, read_plan(config))
    assert (state.units, state.done, state.shards) == (3, 2, 0)
    assert state.seconds_left == 30 and state.rate == pytest.approx(state.images / 60)
    assert list(state.lines())[1].endswith("about 0:00:30 left")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["stages=[split, resize]"], "'split' needs collage, but source 'shared_attention' leaves only images"),
        (["stages=[augment, resize]"], "'augment' needs images, masks|'augment' needs masks"),
        (["source=collage", "stages=[resize]"], "'resize' needs images, but source 'collage' leaves only collage"),
        (["source=collage", "stages=[]"], "there are collages only; add the stage 'split'"),
        (["stages=[segment]"], "add the stage 'resize'"),
        (["stages=[segment, compose, compose, resize]"], "there are two sets train-0000.*is a stage named twice"),
        (["images_per_set=9"], "4 scenes of .* ask for more scenes, or set images_per_set=4"),
        (
            [
                "prompts.backend=openai",
                "prompts.endpoint=http://127.0.0.1:9/v1",
                "prompts.model=x",
                "prompts.attempts=1",
            ],
            "127.0.0.1:9",
        ),
        (["shared_attention.model=/no/such/folder"], "no such folder"),
    ],
)
def test_configurations_that_cannot_work_are_refused(settings, tmp_path, capsys, changes, said):
    assert main(["run", f"out={tmp_path / 'out'}", *settings, *changes]) in (1, 2)
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert re.search(said, error[0])
