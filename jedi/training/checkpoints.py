"""The checkpoints of a training run on the disk: written whole, a digest beside each, found and checked again.

``RUN/checkpoints`` holds, N being the step:

    step-N.ckpt   everything: weights, their average, optimiser. The newest few; a run resumes from the newest.
    kept-N.ckpt   the averaged weights, for good.
    best-N.ckpt   the averaged weights with the lowest held-out loss.

Beside each lies ``X.json`` (step, bytes, sha256; for the best, what it was measured with), written just before the
checkpoint takes its name: without either the other does not count. ``RUN/progress.json`` names the step that was saved
last.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from jedi.errors import InputError
from jedi.io.files import atomic, file_sha256, read_own_json, write_json
from jedi.io.packages import need

log = logging.getLogger(__name__)


class CheckpointError(InputError):
    """A checkpoint that is missing or damaged; the message names the file and what to do."""


def save(state: dict[str, Any], path: Path, record: dict[str, Any]) -> None:
    """Writes ``state`` to ``path``, and ``record`` with its size and digest beside it.

    The tensors go straight from where they are to the disk: no second copy is held in memory, none elsewhere on
    the disk.

    Raises:
        OSError: no space, for instance; it names ``path``, and what was there stays.
    """
    with atomic(path) as temporary:
        with temporary.open("wb") as file:
            writer = _Digesting(file)
            torch.save(state, cast(IO[bytes], writer))
            file.flush()
        found = {"bytes": temporary.stat().st_size, "sha256": writer.digest.hexdigest()}
        # Before the file has its name: what a kill or a full disk leaves is at most a record, which nothing is lost by.
        write_json(path.with_suffix(".json"), {**record, **found})


class _Digesting:
    """A file to write to that computes the sha256 on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def load(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU, mapped from the file: processes of one machine share the memory."""
    if any(name.startswith("torchao.") for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)):
        need("torchao", f"{path}, made with an optimizer of torchao,", "optimizers")
        import torchao.optim  # noqa: F401 (names its tensors as safe)

    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def remove(path: Path) -> None:
    """Removes a checkpoint, its record first, so that it does not count any more."""
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def listed(run: str | Path, kind: str = "step") -> dict[int, Path]:
    """The checkpoints of a kind (step, kept, best) by step, the newest first; also those without file or record."""
    found = {}
    for file in (Path(run) / "checkpoints").glob(f"{kind}-*"):
        if match := re.fullmatch(rf"{kind}-(\d+)\.(ckpt|json)", file.name):
            found[int(match[1])] = file.with_suffix(".ckpt")
    return dict(sorted(found.items(), reverse=True))


def place(run: str | Path, kind: str, step: int) -> Path:
    """Where the checkpoint of a kind and a step lies."""
    return Path(run) / "checkpoints" / f"{kind}-{step:08d}.ckpt"


def thin(run: str | Path, kind: str, step: int, keep: int) -> None:
    """Removes all but the newest ``keep`` up to ``step`` that count. What a later step left is of a course given up."""
    found = listed(run, kind)
    kept = [number for number, path in found.items() if number <= step and _counts(path)][:keep]
    for number, path in found.items():
        if number not in kept:
            remove(path)


def record(path: Path) -> dict[str, Any]:
    """The record beside a checkpoint. Raises ``CheckpointError`` if it or the file is missing or has another size."""
    beside = path.with_suffix(".json")
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    if not beside.is_file():
        raise CheckpointError(f"{path} has no {beside.name} beside it: put that back too")
    try:
        values = read_own_json(beside, step=int, bytes=int, sha256=str)
    except InputError as error:
        raise CheckpointError(str(error)) from None
    if (size := path.stat().st_size) != values["bytes"]:
        raise CheckpointError(f"{path} is damaged: {size} bytes, {beside.name} says {values['bytes']}")
    return values


def check(path: Path) -> dict[str, Any]:
    """The record beside a checkpoint, the file's digest being as it says. Raises ``CheckpointError``."""
    values = record(path)
    if file_sha256(path) != values["sha256"]:
        raise CheckpointError(f"{path} is damaged: its sha256 is not the one in {path.stem}.json")
    return values


def recorded_step(run: str | Path, name: str = "progress.json") -> int:
    """The step that `progress.json` (the last one saved) or `done` names; 0 without that file.

    Raises:
        InputError: it is damaged.
    """
    file = Path(run) / name
    remedy = "remove it: the checkpoints say how far the run is"
    return read_own_json(file, remedy, step=int)["step"] if file.exists() else 0


def record_validation(run: str | Path, step: int, metrics: dict[str, float]) -> None:
    """Keeps what a validation found, for the model card: ``RUN/validation.json``, by step."""
    file = Path(run) / "validation.json"
    found = read_own_json(file, "remove it: it is written anew") if file.exists() else {}
    write_json(file, {**found, str(step): metrics})


def validation(run: str | Path, step: int) -> dict[str, float]:
    """What the latest validation up to that step found; {} if there was none."""
    file = Path(run) / "validation.json"
    found = read_own_json(file, "remove it: the model card then goes without") if file.exists() else {}
    steps = [int(key) for key in found if key.isdecimal() and int(key) <= step]
    return found[str(max(steps))] if steps else {}


def has_begun(run: str | Path) -> bool:
    """Whether there is a checkpoint to resume from.

    Raises:
        CheckpointError: there was one, as `progress.json` or `done` says, and none is left.
    """
    if any(path.is_file() for path in listed(run).values()):
        return True
    for name in ("done", "progress.json"):
        if step := recorded_step(run, name):
            raise CheckpointError(
                f"{run} had reached step {step}, as {name} says, but checkpoints/ has no step-*.ckpt to resume from: "
                f"put it back with the .json beside it, or remove {run} to start over"
            )
    return False


def newest(run: str | Path) -> Path:
    """The newest whole checkpoint to resume from; a warning says if it is not the one that was saved last.

    Raises:
        CheckpointError: none of them is whole.
    """
    faults, found = [], listed(run)
    for path in found.values():
        try:
            check(path)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if (last := recorded_step(run)) > max(found):
            faults.append(f"{place(run, 'step', last)} is missing")
        if faults:
            log.warning("%s; resuming from the older %s", "; ".join(faults), path.name)
        return path
    raise CheckpointError(f"{'; '.join(faults)}. No older one is whole: put one back, or remove {run} to start over")


def find(run: str | Path, name: str) -> Path:
    """The checkpoint that somebody names: `last`, `best`, or a file of checkpoints/ (`kept-00001000`). It is whole.

    Raises:
        CheckpointError: there is none, or it is damaged; the message says which others there are.
    """
    whole = [path for kind in ("step", "kept", "best") for path in listed(run, kind).values() if _counts(path)]
    if name in ("last", "best"):
        steps = {step: path for step, path in listed(run, {"last": "step"}.get(name, name)).items() if path.is_file()}
        if name == "last" and (last := recorded_step(run)) > max(steps, default=0):
            steps = {last: place(run, "step", last)}  # that it is missing is said below
        fit = list(steps.values())
    else:
        fit = [path for path in whole if path.stem == name]
    others = ", ".join(path.stem for path in whole if path not in fit[:1])
    if not fit:
        raise CheckpointError(f"{run} has no checkpoint {name!r}; there: {others or 'none yet'}")
    try:
        check(fit[0])
    except CheckpointError as error:
        choice = f"choose another: {others}" if others else "there is no other"
        raise CheckpointError(f"{error}; {choice} (python -m jedi.training.export RUN OUT --checkpoint NAME)") from None
    return fit[0]


def _counts(path: Path) -> bool:
    try:
        return bool(record(path))
    except CheckpointError:
        return False
