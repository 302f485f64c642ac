"""jedi.io.files: all or nothing."""

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from jedi.errors import InputError, one_line
from jedi.io import files as folders
from jedi.io.files import (
    FolderInUse,
    ResultFolder,
    atomic,
    file_sha256,
    lies_in,
    locked,
    remove_leftovers,
    write_json,
)

NAMES = ["0000.png", "grid.png", "samples.json"]


def write(path, names=NAMES, text="new") -> None:
    with ResultFolder(path, names) as folder:
        for name in names[:-1]:
            (folder / name).write_text(text)
        (folder / names[-1]).write_text(json.dumps({"files": names[:-1]}))


def tree(path) -> set[str]:
    return {x.relative_to(path).as_posix() for x in path.rglob("*")}


def test_a_new_folder_appears_whole_at_the_end(tmp_path):
    with ResultFolder(tmp_path / "deep" / "out", NAMES) as folder:
        (folder / "0000.png").write_text("x")
        assert not (tmp_path / "deep").exists()
        assert len(list(tmp_path.iterdir())) == 1  # the temporary one, hidden
    assert tree(tmp_path) == {"deep", "deep/out", "deep/out/0000.png"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("exists", [False, True])
def test_an_error_leaves_what_was_there(tmp_path, error, exists):
    if exists:
        write(tmp_path / "out", text="old")
    before = tree(tmp_path)

    def fail() -> None:
        with ResultFolder(tmp_path / "out", NAMES) as folder:
            (folder / "0000.png").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert tree(tmp_path) == before
    if exists:
        assert (tmp_path / "out" / "0000.png").read_text() == "old"


def test_the_same_again_replaces_what_it_wrote_and_nothing_else(tmp_path):
    write(tmp_path / "out", ["0000.png", "0001.png", *NAMES[1:]], "old")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    write(tmp_path / "out")
    assert tree(tmp_path / "out") == {*NAMES, "notes.txt"}
    assert (tmp_path / "out" / "0000.png").read_text() == "new"
    write(tmp_path / "out", ["0000.png", "0001.png", *NAMES[1:]])
    assert tree(tmp_path / "out") == {*NAMES, "0001.png", "notes.txt"}


@pytest.mark.parametrize("moves", range(5))
def test_a_kill_while_the_files_move_is_mended_by_the_same_command(tmp_path, monkeypatch, moves):
    """Each rename in turn is the last that happens; new names and old ones differ."""
    write(tmp_path / "out", ["old.png", *NAMES[1:]], "old")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    done, replace = [], Path.replace

    def killed(self, target):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(target)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        if moves < 4:
            with pytest.raises(KeyboardInterrupt):
                write(tmp_path / "out")
            record = json.loads((tmp_path / "out" / "samples.json").read_text())
            assert tree(tmp_path / "out") <= {*record["files"], "samples.json", "notes.txt"}
        else:
            write(tmp_path / "out")
    write(tmp_path / "out")
    assert tree(tmp_path / "out") == {*NAMES, "notes.txt"}
    assert {(tmp_path / "out" / name).read_text() for name in NAMES[:-1]} == {"new"}


def overtaken(path, text, meanwhile) -> None:
    with ResultFolder(path, NAMES) as folder:
        for name in NAMES:
            (folder / name).write_text(text)
        meanwhile()


@pytest.mark.parametrize("exists", [None, "empty", "used"])
def test_of_two_runs_to_one_folder_none_is_lost(tmp_path, exists):
    """The second to end keeps what it made in a folder of its own, and says where."""
    if exists:
        (tmp_path / "out").mkdir()
    if exists == "used":
        write(tmp_path / "out", text="old")
        (tmp_path / "out" / "notes.txt").write_text("mine")
    for n in (2, 3):
        with pytest.raises(InputError, match="another run has written to") as caught:
            overtaken(tmp_path / "out", f"slow {n}", lambda n=n: write(tmp_path / "out", text=f"quick {n}"))
        aside = Path(str(caught.value).rpartition(" are in ")[2])
        assert aside.name.startswith("out-") and {(aside / name).read_text() for name in NAMES} == {f"slow {n}"}
        assert (tmp_path / "out" / "0000.png").read_text() == f"quick {n}"
    assert not list(tmp_path.rglob(".*"))
    write(tmp_path / "out", text="again")
    assert (tmp_path / "out" / "0000.png").read_text() == "again"


def test_a_file_that_came_meanwhile_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="results of this one are in"):
        overtaken(tmp_path / "out", "new", lambda: (tmp_path / "out" / "grid.png").write_text("mine"))
    assert (tmp_path / "out" / "grid.png").read_text() == "mine"


def test_what_killed_runs_left_is_cleared(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f".out.{socket.gethostname()}.{dead.pid}.0123abcd.tmp"
    left.mkdir()
    with ResultFolder(tmp_path / "out", NAMES) as folder:
        ResultFolder(tmp_path / "out", NAMES)
        assert list(tmp_path.iterdir()) == [folder]


def test_what_lies_in_a_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    inside = [tmp_path / x for x in ("a", "a/b", "link", "link/b", "a/b/../c")]
    assert all(lies_in(path, tmp_path / "a") for path in inside)
    assert not any(lies_in(path, tmp_path / "a") for path in (tmp_path, tmp_path / "ab", tmp_path / "a/../b"))


@pytest.mark.parametrize("exists", [False, True])
def test_the_same_command_removes_what_a_killed_one_left(tmp_path, exists):
    if exists:
        write(tmp_path / "out", text="old")

    def killed() -> None:
        with ResultFolder(tmp_path / "out", NAMES) as folder:
            (folder / "0000.png").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL and list(tmp_path.rglob(".*.tmp"))
    write(tmp_path / "out")
    assert tree(tmp_path) == {"out", *(f"out/{name}" for name in NAMES)}


def test_leftovers_of_any_machine_are_removed_where_nobody_writes(tmp_path):
    names = ".a.tar.node1.7.tmp", ".a.json.node2.1.tmp", ".ab.tar.node1.7.tmp", "a.tar", ".lock"
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "a.")
    assert tree(tmp_path) == {*names[2:]}
    remove_leftovers(tmp_path)
    assert tree(tmp_path) == {*names[3:]}


def test_digest_of_a_file(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")


@pytest.mark.parametrize("record", [None, "no json", "[]", '{"files": 3}', '{"files": ["../0000.png"]}'])
def test_files_of_others_are_never_overwritten(tmp_path, record):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0000.png").write_text("mine")
    if record is not None:
        (tmp_path / "out" / "samples.json").write_text(record)
    with pytest.raises(InputError, match="no earlier run wrote"):
        ResultFolder(tmp_path / "out", NAMES)


def test_an_empty_or_foreign_folder_is_filled(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path)
    assert tree(tmp_path) == {*NAMES, "notes.txt"}


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        ResultFolder(tmp_path / "file", NAMES)
    with pytest.raises(InputError), ResultFolder(tmp_path / "file" / "out", NAMES):
        pass
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(InputError), ResultFolder(tmp_path / "locked" / "out", NAMES):
            pass
    assert tree(tmp_path) - {"locked"} == {"file"}


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic(path) as temporary:
        temporary.write_text("half") and (tmp_path / "missing").read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
    assert path.read_text() == "old"
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    for name in ("caf\u00e9", "caf\udce9"):  # the other is no UTF-8
        write_json(path, {"name": name})
        assert json.loads(path.read_text(encoding="utf-8")) == {"name": name}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_atomic_clears_what_killed_processes_left(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    left = tmp_path / f".x.{host}.{dead.pid}.tmp"
    left.mkdir()
    (left / "file").touch()
    names = f".x.{host}.1.tmp", f".x.elsewhere.{dead.pid}.tmp", f".xy.{host}.{dead.pid}.tmp"
    others = [tmp_path / name for name in names]
    for other in others:
        other.touch()
    with atomic(tmp_path / "x") as temporary:
        temporary.mkdir()
        (temporary / "inside").write_text("whole")
    assert (tmp_path / "x" / "inside").read_text() == "whole"
    assert not left.exists()
    assert all(other.exists() for other in others)


@pytest.mark.parametrize("kind", ["write", "safetensors", "torch", "below"])
def test_atomic_says_where_the_disk_is_full_whoever_writes(tmp_path, kind):
    """Each as it was seen on a full disk: no place, a message only, a context only, the place of the temporary."""
    path = tmp_path / "x"

    def full(temporary: Path) -> None:
        temporary.write_text("half")
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([str(temporary)] if kind == "below" else []))
        if kind == "safetensors":
            raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")
        if kind != "torch":
            raise error
        try:
            raise error
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")

    with pytest.raises(OSError, match="No space left") as found, atomic(path) as temporary:
        full(temporary)
    assert (found.value.errno, found.value.filename) == (errno.ENOSPC, str(path))
    assert one_line(found.value) == f"{path}: No space left on device"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(errno.ENOENT, "no such file", "other")])
def test_atomic_passes_other_errors_on_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as found, atomic(tmp_path / "x"):
        raise error
    assert found.value is error


def test_a_lock_keeps_others_out_and_leaves_nothing(tmp_path):
    folder = tmp_path / "a" / "b"
    with locked(folder):
        with pytest.raises(FolderInUse, match=f"another run is at work in {folder}"), locked(folder):
            pass
        with locked(folder, ".part.lock"):
            assert sorted(x.name for x in folder.iterdir()) == [".lock", ".part.lock"]
    assert not list(tmp_path.iterdir())  # it was made for the lock, and nothing was put into it
    with locked(folder):
        (folder / "x").touch()
    assert tree(tmp_path) == {"a", "a/b", "a/b/x"}
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "c"):
        1 / 0  # noqa: B018
    assert not (tmp_path / "c").exists()


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """Who had the lock removes its file: one that was opened before counts for nothing."""
    (tmp_path / ".lock").touch()
    flock, calls = folders.fcntl.flock, []

    def remove_once(file, how):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr(folders.fcntl, "flock", remove_once)
    with locked(tmp_path):
        assert len(calls) == 2
        with pytest.raises(FolderInUse), locked(tmp_path):
            pass


@pytest.fixture
def no_locks(monkeypatch, request):
    def flock(file, how):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(folders.fcntl, "flock", flock)


@pytest.mark.parametrize("no_locks", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], indirect=True)
def test_without_locks_of_the_system_a_file_names_host_and_process(tmp_path, no_locks):
    held = tmp_path / ".lock.held"
    with locked(tmp_path):
        assert held.read_text().split()[:2] == [socket.gethostname(), str(os.getpid())]
        said = f"process {os.getpid()} on {socket.gethostname()}; if .* remove {held}"
        with pytest.raises(FolderInUse, match=said), locked(tmp_path):
            pass
        assert held.exists()
    assert not tree(tmp_path)


@pytest.mark.parametrize("no_locks", [errno.ENOSYS], indirect=True)
def test_what_a_dead_process_left_is_taken_over_and_another_host_s_is_not(tmp_path, no_locks):
    held = tmp_path / ".lock.held"
    dead = subprocess.Popen(["true"])
    dead.wait()
    reused = f"{socket.gethostname()} {os.getpid()} 1"  # a process that has the number again, but started later
    for stale in (f"{socket.gethostname()} {dead.pid} 17", reused):
        held.write_text(stale)
        with locked(tmp_path):
            assert held.read_text() != stale
        assert not tree(tmp_path)
    for foreign in ("elsewhere 1 17", ""):  # half written: somebody is about to have it
        held.write_text(foreign)
        with pytest.raises(FolderInUse, match=f"remove {held}"), locked(tmp_path):
            pass
        assert held.read_text() == foreign
        held.unlink()


@pytest.mark.parametrize("no_locks", [errno.EIO], indirect=True)
def test_another_error_of_a_lock_is_no_lack_of_locks(tmp_path, no_locks):
    with pytest.raises(OSError) as error, locked(tmp_path):
        pass
    assert error.value.errno == errno.EIO
