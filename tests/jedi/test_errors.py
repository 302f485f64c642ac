"""Which errors become one line."""

import errno
from pathlib import Path

import pytest

from jedi.errors import InputError, one_line
from jedi.io.config import ConfigError


@pytest.mark.parametrize("kind", [InputError, ConfigError])
def test_a_mistake_in_the_input_is_one_line(kind):
    assert one_line(kind("seed is 0 or more,\n  got -1")) == "seed is 0 or more, got -1"
    assert one_line(kind()) == kind.__name__


def test_what_the_machine_refuses_is_one_line_with_the_file():
    error = OSError(errno.ENOSPC, "No space left on device", "out/x.png")
    assert one_line(error) == "out/x.png: No space left on device"
    assert one_line(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"


@pytest.mark.parametrize("bug", [ValueError("x"), KeyError("x"), FileNotFoundError(errno.ENOENT, "No such file", "x")])
def test_a_bug_keeps_its_traceback(bug):
    assert one_line(bug) is None


def test_a_missing_file_that_python_reports_names_itself(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        Path(tmp_path / "x").read_text()
    assert one_line(caught.value) is None
