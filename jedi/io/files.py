"""Results that appear whole or not at all, folders for one process at a time, digests. Python's own library only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from jedi.errors import InputError, given
from jedi.io.texts import is_text


def file_sha256(path: str | Path) -> str:
    """sha256 (hexadecimal) of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """``with atomic(path) as temporary:`` write a file or a folder there; it becomes ``path``, whole or not at all.

    The temporary name lies beside ``path``, is hidden, and names this host and process: what killed processes of this
    host left there is removed first. File and folder are synced to the disk before and after the rename, so that a
    crash of the machine leaves the old content or the new. If the block raises, nothing is left.

    A folder can only take the place of nothing or of an empty folder. Where the system does not let us write (a full
    disk), the ``OSError`` names ``path``, also where a library says so by an error of its own.
    """
    path = Path(path)
    temporary = path.with_name(f"{_clear(path.parent, path.name)}{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
        for file in (temporary, *temporary.rglob("*")):  # a file has no content of its own to list
            sync(file)
        temporary.replace(path)
        sync(path.parent)
    except Exception as error:
        if (number := _refusal(error)) is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        _remove(temporary)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file, and the folders that lead to it; the file appears whole or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, values: Any) -> None:
    """Writes JSON as :func:`write_text` does. Names that are not UTF-8, and only these texts, are escaped."""
    text = json.dumps(values, indent=1, ensure_ascii=False)
    write_text(path, text if is_text(text) else json.dumps(values, indent=1))


def read_own_json(path: str | Path, remedy: str = "put it back from a copy", /, **fields: type) -> dict[str, Any]:
    """A JSON object that this project wrote; ``fields`` are there, and of just these types.

    Raises:
        InputError: it cannot be read so. The message names the file, and the ``remedy``.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        wrong = [name for name, kind in fields.items() if type(values[name]) is not kind]
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); {remedy}") from None
    if wrong or not isinstance(values, dict):
        raise InputError(f"{path} is damaged ({', '.join(wrong) or 'no object'}); {remedy}")
    return values


def sync(path: Path) -> None:
    """Has the system write a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Removes what writers of :func:`atomic` left in ``folder`` when they were killed, on whatever machine, of files
    whose name begins with ``name``. Nobody may be writing these."""
    for old in folder.glob(f".{glob.escape(name)}*.tmp"):
        _remove(old)


def _refusal(error: BaseException | None) -> int | None:
    """The system's number of what kept us from writing, None where something else went wrong. PyTorch hides it in the
    error's context, safetensors in the message."""
    while error is not None:
        said = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else said and int(said[1])
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            return number
        error = error.__cause__ or error.__context__
    return None


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Whether ``path``, there or not, is ``folder`` or lies in it, links followed."""
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def _clear(folder: Path, name: str) -> str:
    """Removes temporaries of ``name`` that killed processes of this host left; returns how those of this host begin."""
    prefix = f".{name}.{socket.gethostname()}."
    for old in folder.glob(f"{glob.escape(prefix)}*.tmp"):
        process = old.name.removeprefix(prefix).partition(".")[0]
        if process != str(os.getpid()) and not _alive(process):
            _remove(old)
    return prefix


def _alive(process: str) -> bool:
    """Whether a process of this host with that number runs; True if it is not a number."""
    if not process.isdecimal():
        return True
    try:
        os.kill(int(process), 0)  # asks only
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return int(process) != os.getpid()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


class FolderInUse(InputError):
    """Another process works in a folder that is for one at a time."""


@contextlib.contextmanager
def locked(folder: str | Path, name: str = ".lock") -> Iterator[None]:
    """Keeps other processes out of ``folder`` (with a ``name`` of its own: of a part of the work there) for the length
    of the block. A folder that is not there is made, and goes again if nothing was put into it.

    The lock goes with the process, however it ends; a file ``name`` that is left means nothing. Where the file system
    has no locks (Lustre without ``-o flock``, some of FUSE and NFS), the file itself is the lock, and names host and
    process: what a dead process of this host left is taken over; what one of another host left, a person removes.

    Raises:
        FolderInUse: another process has it.
    """
    path = Path(folder) / name
    made = [place for place in (path.parent, *path.parent.parents) if not place.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _system_lock(path):
            yield
    finally:
        with contextlib.suppress(OSError):  # some are no longer empty
            for place in made:
                place.rmdir()


@contextlib.contextmanager
def _system_lock(path: Path) -> Iterator[None]:
    """A lock of the system on the file; without such locks, :func:`_file_lock` beside it."""
    while True:
        with path.open("w") as file, contextlib.ExitStack() as held:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderInUse(f"another run is at work in {path.parent}; wait for it or end it") from None
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                    raise
                held.enter_context(_file_lock(path.with_name(f"{path.name}.held")))
            try:
                ours = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                ours = False
            if ours:  # else who had it before us has removed the file that we opened
                held.callback(path.unlink, missing_ok=True)
                yield
                return


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    ours = f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"
    if (found := _read(path)) is not None:
        host, process, started = [*found.split(" "), "", "", ""][:3]
        dead = host == socket.gethostname() and process.isdecimal() and _started(int(process)) != started
        if not dead:
            raise FolderInUse(
                f"another run is at work in {path.parent}: process {process or '?'} on {host or '?'}; "
                f"if it no longer runs, remove {path}"
            )
        stale = path.with_name(f"{path.name}.{os.getpid()}")
        path.replace(stale)
        same = _read(stale) == found
        if not same:  # another process took it over just before us: what we moved is its lock
            with contextlib.suppress(FileExistsError):
                os.link(stale, path)
        stale.unlink()
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        raise FolderInUse(f"another run is at work in {path.parent}; wait for it or end it") from None
    try:
        os.write(descriptor, ours.encode())
        os.close(descriptor)
        yield
    finally:
        path.unlink(missing_ok=True)


def _started(process: int) -> str:
    """When a process of this host started, in clock ticks; "" if it does not run, "?" where nothing tells."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return "?" if not Path("/proc/self/stat").exists() and _alive(str(process)) else ""


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


class ResultFolder:
    """``with ResultFolder("out", ["0000.png", "samples.json"]) as temporary:`` write these files there.

    At the end of the block the files move to ``path``, the last of them (the record, JSON) last; if the block
    raises, nothing is left. A new folder arrives by one rename. A folder that is there already keeps what is
    in it, but for the files that its record lists under "files": those are replaced, so the same command
    works again, also where a kill came between two of the moves. Where another run has written there meanwhile, the
    files stay together in a folder of their own, ``out-2``.

    Raises:
        InputError: ``path`` is a file, or holds a file of one of these names that its record does not
        name, or the place cannot be written to. At the end: another run has written there, and where the files are.
    """

    def __init__(self, path: str | Path, names: Sequence[str]) -> None:
        self.path, self.names = Path(path), list(names)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; expected a folder")
        self.old = self._recorded()
        if foreign := [name for name in self.names if name not in self.old and (self.path / name).exists()]:
            raise InputError(f"{self.path} holds a {foreign[0]} that no earlier run wrote")
        self.before = self._state()
        # Beside the new folder, or inside the old one: on the same file system, so that a rename is enough.
        place = next(x for x in (self.path, *self.path.absolute().parents) if x.exists())
        prefix = _clear(place, self.path.name or "results")
        self.temporary = place / f"{prefix}{os.getpid()}.{secrets.token_hex(4)}.tmp"

    def __enter__(self) -> Path:
        with given(str(self.path)):
            self.temporary.mkdir()
        return self.temporary

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            shutil.rmtree(self.temporary, ignore_errors=True)

    def _recorded(self) -> set[str]:
        """Names of the files that an earlier run wrote, its record included."""
        record = self.path / self.names[-1]
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            files = json.loads(record.read_text(encoding="utf-8"))["files"]
            return {record.name, *(name for name in files if Path(name).name == name)}
        return set()

    def _state(self) -> dict[str, tuple[int, int]]:
        """What another run would change: our files that there are, and which ones."""
        found = {name: self.path / name for name in self.names if (self.path / name).exists()}
        return {name: ((stat := path.stat()).st_ino, stat.st_mtime_ns) for name, path in found.items()}

    def _keep_aside(self) -> None:
        name = self.path.absolute().name
        aside = next(x for n in itertools.count(2) if not (x := self.temporary.with_name(f"{name}-{n}")).exists())
        self.temporary.rename(aside)
        raise InputError(f"another run has written to {self.path} meanwhile; the results of this one are in {aside}")

    def _publish(self) -> None:
        """Moves the files to their place: a new folder in one step; in an old one the record comes last.

        Until then a record of old and new names stands in its place, so that each of the files is known as ours.
        """
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.temporary.rename(self.path)
            except OSError:
                if not self.path.exists():
                    raise
                self._keep_aside()
            return
        if self._state() != self.before:
            self._keep_aside()
        record = self.path / self.names[-1]
        both = self.temporary / f".{record.name}"
        both.write_text(json.dumps({"files": sorted(self.old.union(self.names))}), encoding="utf-8")
        both.replace(record)
        for name in self.old - set(self.names):
            (self.path / name).unlink(missing_ok=True)
        for name in self.names:
            (self.temporary / name).replace(self.path / name)
