"""A data set to the hub: what is sent, and a card that the hub's viewer can read."""

import json
import shutil
from fnmatch import fnmatch

import huggingface_hub
import pytest
import yaml

from data_gen import __main__ as command
from jedi.data import SetIndex
from tests import tiny
from tests.conftest import write_shard


@pytest.fixture
def data(tmp_path):
    """A finished data set with sets of two sizes, and files that stay here."""
    folder = tmp_path / "data"
    write_shard(folder / "train", "00000", [4, 3, 4], tiny.PIXELS, seed=1)
    write_shard(folder / "heldout", "00000", [3, 3], tiny.PIXELS, seed=2)
    (folder / "DATA_CARD.md").write_text("# Data set from the source test\n\n3 training sets.\n\n## What it is\n\nx\n")
    (folder / "statistics.json").write_text(json.dumps({"licences": ["CC0-1.0"]}))
    (folder / "prompts.jsonl").write_text("{}")
    (folder / "units").mkdir()
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in the hub's place."""
    made = []

    def upload_folder(_, *, repo_id, folder_path, repo_type, commit_message, allow_patterns):
        assert repo_type == "dataset"
        for path in folder_path.rglob("*"):
            name = path.relative_to(folder_path).as_posix()
            if path.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                target = tmp_path / "hub" / repo_id / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda _, name, **options: made.append((name, options)))
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    return tmp_path / "hub", made


def test_shards_card_and_counts_go_to_the_hub(data, hub, capsys):
    folder, made = hub
    assert command.main(["push", str(data), "owner/sets", "--private"]) == 0
    assert capsys.readouterr().out == "uploaded to https://huggingface.co/datasets/owner/sets\n"
    assert made == [("owner/sets", {"repo_type": "dataset", "exist_ok": True, "private": True})]
    there = folder / "owner" / "sets"
    files = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert files == {
        "README.md", "DATA_CARD.md", "statistics.json",
        "train/00000.tar", "train/00000.json", "heldout/00000.tar", "heldout/00000.json",
    }  # fmt: skip
    assert SetIndex.read(there).fingerprint == SetIndex.read(data).fingerprint
    _, head, body = (there / "README.md").read_text().split("---\n", 2)
    settings = yaml.safe_load(head)
    assert body.strip() == (data / "DATA_CARD.md").read_text().strip()
    assert settings["license"] == "cc0-1.0" and settings["size_categories"] == ["n<1K"]
    files = [{"split": split, "path": f"{split}/*.tar"} for split in ("train", "heldout")]
    assert settings["configs"] == [{"config_name": "default", "data_files": files}]
    images = [x["name"] for x in settings["dataset_info"]["features"] if x.get("dtype") == "image"]
    assert images == [name for i in range(4) for name in (f"{i}.png", f"{i}.mask.png")]


def test_what_cannot_be_sent_is_said_in_one_line(data, tmp_path, capsys, monkeypatch):
    def refuses(*_, **__):
        raise huggingface_hub.errors.OfflineModeIsEnabled("Cannot reach the hub")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuses)
    for arguments, message in (
        ([str(data), "sets"], "push sets: expected OWNER/NAME"),
        ([str(tmp_path), "owner/sets"], "holds no finished data set: it has no DATA_CARD.md"),
        ([str(data), "owner/sets"], "the hub did not take it as owner/sets: Cannot reach the hub; log in with"),
    ):
        assert command.main(["push", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
