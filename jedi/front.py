"""What the front ends share: mistakes in a request end in one line on stderr and an exit code, never in a traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from jedi.errors import out_of_memory


class Parser(argparse.ArgumentParser):
    """Raises ``ValueError`` for a mistake, for :func:`exit_code` to say in one line."""

    def error(self, message: str) -> None:
        raise ValueError(message)


def exit_code(program: str, interrupted: str, work: Callable[[], None]) -> int:
    """Does the work. 0: done, 2: a mistake in the request 130: Ctrl-C (``interrupted`` is said)."""
    try:
        work()
    except KeyboardInterrupt:
        print(f"{program}: interrupted{interrupted}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:  # of a mistaken request; whatever else comes is a fault of ours
        print(f"{program}: {' '.join(message_of(error).split())}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        print(f"{program}: out of memory; a smaller --batch-size needs less", file=sys.stderr)
        return 2
    return 0


def message_of(error: Exception) -> str:
    """The message without Python's error number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
