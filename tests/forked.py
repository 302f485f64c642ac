"""Commands in a child of the test process, which has torch and diffusers loaded: a process of its own without the
seconds that importing them costs, which is most of what a short command does."""

import contextlib
import io
import json
import multiprocessing
import os
import runpy
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
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


CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({place!r})
    socket.send_fds(server, [b" "], [1])
    server.sendall(json.dumps([os.getcwd(), dict(os.environ), sys.argv[1:]]).encode() + b"\\n")
    sys.exit(int(server.recv(16)))
"""


@contextlib.contextmanager
def interpreter(program: Path) -> Iterator[None]:
    """While this lasts, `PROGRAM ARGUMENTS` does what `python ARGUMENTS` does, in a child as `run` makes them: for
    the commands that another program, such as make, starts."""
    with socket.socket(socket.AF_UNIX) as listening:
        place = f"\0forked {os.getpid()}"  # in no folder: a path could be too long
        listening.bind(place)
        listening.listen()
        with program.open("x") as file:  # never over a real one
            file.write(CLIENT.format(python=sys.executable, place=place))
        program.chmod(0o755)
        server = _FORK.Process(target=_serve, args=(listening,))
        server.start()
        try:
            yield
        finally:
            server.terminate()
            server.join()


def _serve(listening: socket.socket) -> None:
    while True:
        client, _ = listening.accept()
        with client, client.makefile("rb") as sent:
            _, (output,), _, _ = socket.recv_fds(client, 1, 1)
            folder, environment, arguments = json.loads(sent.readline())
            child = os.fork()
            if not child:
                os.environ.clear()
                os.environ.update(environment)
                _child(python(arguments, Path(folder)), output)
            os.close(output)
            client.sendall(b"%d" % (os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256))


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
