"""A real full disk: a small tmpfs that grows page by page, so that every file of a run meets its end once."""

import hashlib
import itertools
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from data_gen import models, run
from data_gen.__main__ import main
from data_gen.config import DataConfig
from data_gen.prompts.config import PromptsSettings
from data_gen.prompts.response_cache import NAME as JOURNAL
from data_gen.sources.shared_attention import SharedAttentionSettings
from tests.data_gen.conftest import all_bytes, small_config
from tests.data_gen.pipelines import save_plain_jedi

PAGE = 4  # KiB: what the smallest file takes of a tmpfs
FULL = r"(\S+): No space left on device; make space there, then run the same command again to resume"


@pytest.fixture
def disk(tmp_path):
    """A function that brings the disk `tmp_path/disk` to so many KiB. Needs the right to mount, or sudo for it."""
    folder, me = tmp_path / "disk", [] if os.geteuid() == 0 else ["sudo", "-n"]
    folder.mkdir()

    def mount(options: str) -> subprocess.CompletedProcess:
        command = [*me, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            return subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError as error:  # no sudo
            return subprocess.CompletedProcess(command, 1, "", str(error))

    first = mount(f"size={PAGE}k,uid={os.geteuid()}")
    if first.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {first.stderr.strip()}")
    yield lambda size: mount(f"remount,size={size}k").check_returncode()
    subprocess.run([*me, "umount", "--lazy", str(folder)], check=True)


def is_whole(out: Path) -> None:
    """What a failed run left counts for what it is: no partial file, each JSON file ends, each manifest's tar is
    the one it describes, each line of the journal is an answer."""
    assert not list(out.rglob(".*.tmp"))
    for path in out.rglob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        if path.parent.name in ("units", "train", "heldout"):
            assert found["sha256"] == hashlib.sha256(path.with_suffix(".tar").read_bytes()).hexdigest(), path
    if (out / JOURNAL).is_file():
        text = (out / JOURNAL).read_text(encoding="utf-8")
        assert not text or text.endswith("\n")
        assert all("key" in json.loads(line) for line in text.splitlines())


def attempt(config: DataConfig) -> str | None:
    """What the run says when it cannot go on; None where it ends well."""
    try:
        run.run(config)
    except run.RunError as error:
        return str(error)
    return None


def climb(config: DataConfig, disk: Callable[[int], None]) -> list[str]:
    """The same run at every size of the disk until it ends well; returns the files that found no space, in order."""
    out, full, journal, sizes = Path(config.out), [], b"", itertools.count(2 * PAGE, PAGE)
    disk(next(sizes))
    while said := attempt(config):
        place = re.fullmatch(FULL, said)
        assert place, said
        full.append(str(Path(place[1]).relative_to(out)))
        is_whole(out)
        if (out / JOURNAL).is_file():
            longer = (out / JOURNAL).read_bytes()
            assert longer.startswith(journal)  # no answer is lost, or asked for twice
            journal = longer
        disk(next(sizes))
    return full


def missed(full: list[str], *patterns: str) -> list[str]:
    """Which of these files never met the disk's end."""
    return [pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in full)]


REPORT = (r"finish\.json", r"statistics\.json", "report/.*")


@pytest.mark.slow
def test_the_emoji_source_on_a_disk_that_grows(tmp_path, disk):
    settings = {"sets": 3, "heldout_sets": 1, "images_per_set": 2, "sets_per_unit": 2, "sets_per_shard": 2}
    settings |= {"resolution": 32, "contact_sheet_rows": 2}
    easy, hard = small_config(tmp_path / "easy", **settings), small_config(tmp_path / "disk" / "hard", **settings)
    run.run(easy)
    disk(2 * PAGE)
    (tmp_path / "disk" / "other").write_bytes(bytes(2 * PAGE << 10))  # so that not even the plan finds room at first
    full = climb(hard, disk)
    made = [rf"{place}-000000\.{ending}" for place in ("units/train", "train/train") for ending in ("tar", "json")]
    assert not missed(full, r"plan\.json", r"logs/train-000000\.json", *made, "heldout/.*", *REPORT)
    assert all_bytes(Path(hard.out)) == all_bytes(Path(easy.out))


@pytest.mark.slow
def test_prompts_and_a_pipeline_on_a_disk_that_grows(tmp_path, root, disk, monkeypatch):
    model = save_plain_jedi(root, tmp_path / "model")
    source = SharedAttentionSettings(model=str(model), num_inference_steps=1)
    prompts = PromptsSettings(subjects=24, scenes_per_subject=2)
    settings = {"source": "shared_attention", "shared_attention": source, "prompts": prompts, "device": "cpu"}
    settings |= {"sets": 2, "heldout_sets": 0, "images_per_set": 2, "sets_per_unit": 1, "sets_per_shard": 2}
    easy, hard = small_config(tmp_path / "easy", **settings), small_config(tmp_path / "disk" / "hard", **settings)
    pipe = models.load_pipeline("model", str(model), "text2image", hard)
    monkeypatch.setattr(models, "load_pipeline", lambda *given: pipe)  # once, not at every size of the disk
    run.run(easy)
    full = climb(hard, disk)
    made = [rf"{place}-000000\.{ending}" for place in ("units/train", "train/train") for ending in ("tar", "json")]
    assert not missed(full, r"prompts\.jsonl", r"prompts\.json", *made, *REPORT)
    assert all_bytes(Path(hard.out)) == all_bytes(Path(easy.out))


@pytest.mark.slow
def test_the_command_ends_with_one_line_and_code_1(tmp_path, disk, capsys):
    command = ["run", f"out={tmp_path / 'disk'}", "extensions=[jedi_toy.emoji]", "source=emoji"]
    command += ["sets=8", "heldout_sets=0", "sets_per_unit=4"]
    disk(10 * PAGE)
    assert main([*command, "workers=2"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if "error" in line.lower()] == errors[-1:]
    assert re.fullmatch(f"error: {FULL}", errors[-1])
    disk(1000 * PAGE)
    assert main([*command, "workers=2"]) == 0
    assert "2 of 2 units, 1 shards, 8 sets, 32 images" in capsys.readouterr().out
