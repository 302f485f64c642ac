"""Checkpoints on the disk: whole, checked, the older ones found where the newest is damaged."""

import errno
import json
import random
import tempfile
import threading
from pathlib import Path

import pytest
import torch

from jedi.errors import InputError
from jedi.training import checkpoints
from jedi.training.checkpoints import CheckpointError


def write(run, step, kind="step", **record):
    path = checkpoints.place(run, kind, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"weight": torch.full((64, 64), float(step)), "jedi": {"step": step}}
    checkpoints.save(state, path, {"step": step} | record)
    return path


@pytest.fixture
def run(tmp_path):
    """A run that saved at the steps 3 and 6."""
    write(tmp_path, 3)
    write(tmp_path, 6)
    (tmp_path / "progress.json").write_text('{"step": 6}')
    return tmp_path


def test_what_is_saved_is_read_and_nothing_else_is_left(run):
    path = checkpoints.newest(run)
    assert path.name == "step-00000006.ckpt" and checkpoints.load(path)["weight"].unique().tolist() == [6.0]
    assert checkpoints.check(path)["step"] == 6
    names = {file.name for file in path.parent.iterdir()}
    assert names == {f"step-0000000{step}.{end}" for step in (3, 6) for end in ("ckpt", "json")}


def test_saving_goes_straight_to_the_folder_piece_by_piece(tmp_path, monkeypatch):
    pieces, write_piece = [], checkpoints._Digesting.write
    monkeypatch.setattr(
        checkpoints._Digesting, "write", lambda self, data: pieces.append(len(data)) or write_piece(self, data)
    )
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    state = {str(i): torch.rand(1 << 18) for i in range(16)}  # 16 tensors of 1 MB
    checkpoints.save(state, tmp_path / "step-00000001.ckpt", {"step": 1})
    assert sum(pieces) > 16 << 20 and max(pieces) <= 1 << 20  # never more than one tensor at a time
    found = checkpoints.load(tmp_path / "step-00000001.ckpt")
    assert all(torch.equal(found[name], state[name]) for name in state)


def anonymous_memory() -> int:
    """Bytes of this process that no file stands for."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) << 10


def test_neither_saving_nor_resuming_holds_a_second_copy(tmp_path):
    """32 MiB of weights and twice that of moments."""
    model = torch.nn.Linear(4096, 2048, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    model.weight.grad = None
    state = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    path, most, watching = tmp_path / "step-00000001.ckpt", [0], threading.Event()

    def watch():
        while not watching.wait(0.002):
            most[0] = max(most[0], anonymous_memory())

    before, watcher = anonymous_memory(), threading.Thread(target=watch)
    watcher.start()
    try:
        checkpoints.save(state, path, {"step": 1})
        del state
        found = checkpoints.load(path)
        model.load_state_dict(found["state_dict"])
        optimizer.load_state_dict(found["optimizer_states"][0])
    finally:
        watching.set()
        watcher.join()
    assert path.stat().st_size > 96 << 20 and 0 < most[0] < before + (16 << 20)


@pytest.mark.parametrize("after", [0, 1 << 14])
def test_a_full_disk_names_the_file_and_leaves_what_was_there(run, monkeypatch, after):
    path = checkpoints.newest(run)
    written, write_piece = [0], checkpoints._Digesting.write

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            written[0] += len(data)
            if written[0] > after:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

    def full(self, data):
        self.file = self.file if isinstance(self.file, Full) else Full(self.file)
        return write_piece(self, data)

    monkeypatch.setattr(checkpoints._Digesting, "write", full)
    monkeypatch.setattr(checkpoints._Digesting, "flush", lambda self: None)
    with pytest.raises(OSError) as error:
        write(run, 6)
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(path)
    assert checkpoints.check(path)["step"] == 6 and len(list(path.parent.iterdir())) == 4


def test_the_older_one_is_taken_where_the_newest_is_not_whole_and_that_is_said(run, caplog):
    """200 mutations: bits, cuts, foreign bytes, of the file or of its record."""
    newest, mishandled = checkpoints.newest(run), []
    assert not caplog.records
    files = {newest: newest.read_bytes(), newest.with_suffix(".json"): newest.with_suffix(".json").read_bytes()}
    draw = random.Random(1)
    for number in range(200):
        file = draw.choice(list(files))
        data = bytearray(files[file])
        kind = draw.choice(["bit", "cut", "empty", "foreign", "missing", "longer"])
        if kind == "bit":
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del data[draw.randrange(len(data)) :]
        elif kind == "longer":
            data += draw.randbytes(draw.randrange(1, 9))
        else:
            foreign = draw.choice([b"[]", b"{}", b"\xff\xfe", b"[" * 5000, b'{"step": "x"}'])
            data[:] = b"" if kind == "empty" else foreign
        file.write_bytes(data)
        if kind == "missing":
            file.unlink()
        caplog.clear()
        try:
            found = checkpoints.newest(run)
        except Exception as error:
            found = error
        harmless = file.suffix == ".json" and found == newest and checkpoints.check(newest)  # a space for a line's end
        said = [record.message for record in caplog.records]
        if not harmless and (found.name != "step-00000003.ckpt" or len(said) != 1 or "step-00000006" not in said[0]):
            mishandled.append((number, file.name, kind, found, said))
        for path, content in files.items():
            path.write_bytes(content)
    assert not mishandled


def test_without_any_whole_one_all_are_named(run):
    for path in checkpoints.listed(run).values():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"00000006.ckpt is damaged.*00000003.ckpt is damaged.*to start over"):
        checkpoints.newest(run)


def test_a_missing_newest_is_said(run, caplog):
    checkpoints.remove(checkpoints.newest(run))
    assert checkpoints.newest(run).name == "step-00000003.ckpt"
    assert "step-00000006.ckpt is missing; resuming from the older step-00000003.ckpt" in caplog.text


@pytest.mark.parametrize("name", ["progress.json", "done"])
def test_a_run_that_stood_somewhere_does_not_begin_anew_without_its_checkpoints(tmp_path, name):
    assert not checkpoints.has_begun(tmp_path)
    (tmp_path / name).write_text('{"step": 7}')
    with pytest.raises(CheckpointError, match=rf"had reached step 7, as {name} says"):
        checkpoints.has_begun(tmp_path)
    write(tmp_path, 6)
    assert checkpoints.has_begun(tmp_path)


def test_a_kill_between_record_and_checkpoint_loses_nothing(tmp_path, monkeypatch):
    """Of the first, of a later one, and in a run where the latest was removed by somebody."""

    def kill(*_):
        raise KeyboardInterrupt

    def killed(step):
        rename = Path.replace
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", lambda self, to: (kill if to.suffix == ".ckpt" else rename)(self, to))
            with pytest.raises(KeyboardInterrupt):
                write(tmp_path, step)
        assert place(tmp_path, "step", step).with_suffix(".json").exists()

    place = checkpoints.place
    killed(3)
    assert not checkpoints.has_begun(tmp_path)
    write(tmp_path, 3)
    (tmp_path / "progress.json").write_text('{"step": 3}')
    killed(6)
    assert checkpoints.has_begun(tmp_path)
    assert checkpoints.find(tmp_path, "last") == checkpoints.newest(tmp_path) == place(tmp_path, "step", 3)
    write(tmp_path, 6)
    (tmp_path / "progress.json").write_text('{"step": 6}')
    checkpoints.remove(place(tmp_path, "step", 6))
    with pytest.raises(CheckpointError, match="step-00000006.ckpt is missing; choose another: step-00000003"):
        checkpoints.find(tmp_path, "last")


@pytest.mark.parametrize("name", ["progress.json", "done"])
def test_where_a_run_stands_is_to_be_removed_when_it_is_damaged(run, name):
    (run / name).write_text("")
    with pytest.raises(InputError, match=rf"{name} is damaged .*; remove it: the checkpoints say"):
        checkpoints.recorded_step(run, name)


def test_thinning_keeps_the_newest_and_nothing_of_a_course_that_was_given_up(tmp_path):
    for step in (2, 4, 6, 8):
        write(tmp_path, step)
    write(tmp_path, 2, "kept")
    (tmp_path / "checkpoints" / "step-00000005.ckpt").touch()  # its record is lost
    checkpoints.thin(tmp_path, "step", 6, 2)
    left = {file.name for file in (tmp_path / "checkpoints").iterdir()}
    names = ("kept-00000002", "step-00000004", "step-00000006")
    assert left == {f"{name}.{end}" for name in names for end in ("ckpt", "json")}


def test_a_checkpoint_is_found_by_name_or_the_others_are_told(run):
    best = write(run, 3, "best", loss=1.0)
    assert checkpoints.find(run, "last").stem == "step-00000006"
    assert checkpoints.find(run, "best") == checkpoints.find(run, "best-00000003") == best
    others = "step-00000006, step-00000003, best-00000003"
    with pytest.raises(CheckpointError, match=rf"no checkpoint '\.\./x'; there: {others}"):
        checkpoints.find(run, "../x")
    last = checkpoints.find(run, "last")
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 4
    last.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"its sha256 .*; choose another: step-00000003, best-00000003"):
        checkpoints.find(run, "last")
    record = json.loads(best.with_suffix(".json").read_text())
    assert record["loss"] == 1.0 and len(record["sha256"]) == 64
