"""Which errors a front end says in one line, and which keep their traceback."""

import pytest
import torch.multiprocessing as mp
from torch._utils import ExceptionWrapper

from jedi.data import DataError
from jedi.errors import InputError, given, one_line
from jedi.io.command_line import Parser, exit_code


def raised(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("seed is 0 or more,\n got -1"), "seed is 0 or more, got -1"),
        (InputError(), "InputError"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (MemoryError(), "out of memory; less"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out of memory; less"),
        (KeyboardInterrupt(), "interrupted, go on"),
    ],
)
def test_what_is_nobody_s_bug_is_one_line(error, line, capsys):
    status = 130 if isinstance(error, KeyboardInterrupt) else 2
    assert exit_code("it", raised(error), ", go on", "less") == status
    assert capsys.readouterr().err == f"it: {line}\n"


@pytest.mark.parametrize("bug", [ValueError(), ValueError("x"), FileNotFoundError(2, "No such file", "x")])
def test_a_bug_passes_with_its_traceback(bug, capsys):
    with pytest.raises(type(bug)) as caught:
        exit_code("it", raised(bug))
    assert caught.value is bug and caught.traceback[-1].name == "work"
    assert capsys.readouterr().err == ""


def test_the_work_s_own_code_comes_back():
    assert exit_code("it", lambda: None) == 0
    assert exit_code("it", lambda: 143) == 143


def test_a_mistake_in_the_arguments_is_one_line(capsys):
    parser = Parser(prog="it")
    parser.add_argument("--n", type=int)
    assert exit_code("it", lambda: parser.parse_args(["--n", "x"])) == 2
    assert capsys.readouterr().err == "it: argument --n: invalid int value: 'x'\n"


def test_what_the_user_named_is_no_bug(tmp_path):
    with pytest.raises(InputError, match="--prompts x: No such file"), given("--prompts x"):
        (tmp_path / "x").read_text()
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(InputError, match="--prompts x: not a text file in UTF-8"), given("--prompts x"):
        (tmp_path / "x").read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "line"), [(DataError, "a.tar: no member b, make: it again"), (ValueError, None)])
def test_an_error_of_a_data_worker_is_the_original(kind, line):
    def in_a_worker():
        raise kind("a.tar: no member b,\n  make: it again")

    try:
        in_a_worker()
    except kind:
        caught = ExceptionWrapper(where="in DataLoader worker process 0")  # what a worker sends to the training
    with pytest.raises(kind) as reached:
        caught.reraise()
    assert one_line(reached.value) == line
    assert "in in_a_worker" in str(reached.value)  # where it is no one line: the worker's own traceback


def fail_in_a_rank(rank, kind):
    try:
        raise KeyError("another")
    except KeyError:
        raise kind("a.tar: no member b,\n  make: it again")  # noqa: B904 (both are in the traceback)


@pytest.mark.parametrize(("kind", "line"), [(DataError, "a.tar: no member b, make: it again"), (ValueError, None)])
def test_an_error_of_a_forked_rank_is_the_original(kind, line):
    with pytest.raises(mp.ProcessRaisedException) as caught:
        mp.start_processes(fail_in_a_rank, (kind,), start_method="fork")
    assert one_line(caught.value) == line
