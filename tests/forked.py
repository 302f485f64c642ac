"""Commands in a child of the test process, which has torch and diffusers loaded: a process of its own without the
seconds that importing them costs, which is most of what a short command does."""

import contextlib
import io
import multiprocessing
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

_FORK = multiprocessing.get_context("fork")


def start(work: Callable[[], int], output: int) -> multiprocessing.Process:
    """Starts `work` in a child; its exit code is what `work` returns, stdout and stderr go to the descriptor."""
    process = _FORK.Process(target=_child, args=(work, output))
    process.start()
    return process


def run(work: Callable[[], int]) -> tuple[int, str]:
    """Does `work` in a child: the exit code, negative for a signal, and all that it and its children said. Like
    subprocess.run it returns when none of them holds the output any more."""
    reading, writing = os.pipe()
    process = start(work, writing)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as said:
        text = said.read()
    process.join()
    return process.exitcode, text


def python(arguments: Sequence[str], folder: Path) -> Callable[[], int]:
    """`python ARGUMENTS` in `folder`, with the modules that are loaded already: -m, -c or a file comes first."""

    def work() -> int:
        os.chdir(folder)
        kind, rest = arguments[0], list(arguments[1:])
        sys.argv = {"-c": ["-c", *rest[1:]], "-m": rest}.get(kind, [kind, *rest])
        if kind == "-c":
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        elif kind == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(kind, run_name="__main__")
        return 0

    return work


def _child(work: Callable[[], int], output: int) -> None:
    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(number, "w"), write_through=True) for number in (1, 2))
        code = work()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(ValueError, OSError):
            sys.stdout.flush()
        os._exit(code)  # whatever happened, the child never returns into pytest
