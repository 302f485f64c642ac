"""Killing a run at a chosen moment, by SIGKILL, so that nothing of the process can tidy up."""

import os
import signal
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def killed_at(moment: str, work: Callable[[], Any], steps: Sequence[tuple[type, str]]) -> None:
    """Does `work` in a child that kills itself: "step 7" before the 7th call of any of these methods, "write 3" when
    half of the 3rd file is written, "rename 3" before the 3rd rename to a final name, "renamed 3" after it."""
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, moment
        return
    kind, number = moment.split()
    seen = Counter()

    def count(what: str) -> None:
        seen[what] += 1
        if (what, seen[what]) == (kind, int(number)):
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(self, target, plain=Path.replace):
        count("rename")
        plain(self, target)
        count("renamed")

    def synced(descriptor, plain=os.fsync):
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a folder
            return plain(descriptor)
        if (kind, int(number)) == ("write", seen["write"] + 1):
            half = os.fstat(descriptor).st_size // 2  # of it has reached the disk
            os.truncate(f"/proc/self/fd/{descriptor}", half)  # the descriptor is one for reading
        count("write")
        return plain(descriptor)

    def counted(plain):
        def step(*given, **named):
            count("step")
            return plain(*given, **named)

        return step

    try:
        Path.replace, os.fsync = replace, synced
        for owner, name in steps:
            setattr(owner, name, counted(getattr(owner, name)))
        work()
    finally:
        os._exit(1)  # whatever happened, the child never returns into pytest
