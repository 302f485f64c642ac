"""What a front end says in one line. Everything else is a bug, ours or an extension's, and keeps its traceback."""

from __future__ import annotations

import errno
import re

_ENVIRONMENT = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE,
    errno.EMFILE, errno.ENFILE,
}  # fmt: skip


class InputError(ValueError):
    """A mistake in what was asked for or given: the message names the thing, what was found, and the remedy."""


def one_line(error: BaseException) -> str | None:
    """The message for stderr, on one line; None for an error that must keep its traceback.

    One line is enough for an :class:`InputError` and for what the machine refuses (a full disk, a missing
    permission); any other ``OSError`` may be a bug.
    """
    if isinstance(error, InputError):
        return " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return f"{' -> '.join(names)}: {error.strerror}" if names else str(error.strerror)
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a GPU's words, or those of PyTorch's allocator on a CPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(re.search("out of memory|can't allocate memory", str(error)))
    )
