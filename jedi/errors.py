"""What a front end says in one line. Everything else is a bug, ours or an extension's, and keeps its traceback."""

from __future__ import annotations

import builtins
import contextlib
import errno
import re
import sys
from collections.abc import Iterator

_ENVIRONMENT = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
    errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
}  # fmt: skip
_LAST_FRAME = re.compile(r'[\s\S]*^ +File ".*", line \d+.*\n(?: .*\n)*', re.M)
"""Of the text of a traceback, all up to the line ``module.Class: message``."""


class InputError(ValueError):
    """A mistake in what was asked for or given: the message names the thing, what was found, and the remedy."""

    status = 2
    """Exit code of a command that ends with it."""


def short(value: object, most: int = 80) -> str:
    """What was found, for a message: as Python writes it, ``most`` letters of it."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def first_line(error: BaseException) -> str:
    """The first sentence of what an error of a library says; its class too, where it says no more than a name."""
    text = re.sub(r":\s*\n\s*", ": ", str(error).strip())
    line = re.split(r"\n|\. (?=[A-Z])", text)[0][:300]
    return line if " " in line else f"{type(error).__name__} {line}".strip()


@contextlib.contextmanager
def given(name: str) -> Iterator[None]:
    """``with given("--prompts prompts.txt"):`` a place that the user named is read there or written to.

    Whatever the system then says, that the file is missing too, is an :class:`InputError`.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not a text file in UTF-8") from error


def one_line(error: BaseException) -> str | None:
    """The message for stderr, on one line; None for an error that must keep its traceback.

    One line is enough for an :class:`InputError` and for what the machine refuses (a full disk, a missing
    permission, a connection); any other ``OSError`` may be a bug. An error that another process raised
    (a data worker, a rank that was forked) reaches us with its traceback as its message: what counts is the original.
    """
    kind, message = _original(error)
    if issubclass(kind, InputError):
        return " ".join(message.split()) or kind.__name__
    refused = isinstance(error, ConnectionError | TimeoutError)
    if isinstance(error, OSError) and (refused or error.errno in _ENVIRONMENT):
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        said = error.strerror or " ".join(message.split()) or type(error).__name__
        return f"{' -> '.join(names)}: {said}" if names else said
    return None


def _original(error: BaseException) -> tuple[type, str]:
    """Class and message of an error, or of the one whose traceback is its message."""
    text = str(error)
    if "Traceback (most recent call last)" not in text or not (frames := _LAST_FRAME.match(text)):
        return type(error), text
    name, _, message = text[frames.end() :].partition(":")
    module, _, name = name.strip().rpartition(".")
    kind = getattr(sys.modules.get(module, builtins), name, None)
    return (kind, message) if isinstance(kind, type) else (type(error), text)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a GPU's words, those of its libraries, or of PyTorch's allocator on a CPU."""
    words = "out of memory|can't allocate memory|STATUS_ALLOC_FAILED"
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(re.search(words, str(error))))
