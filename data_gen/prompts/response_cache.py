"""The response cache, `prompts.jsonl`: what an LLM said is never asked twice, whatever happens.

One line an answer: its key (the sha256 of the request, with the model and the seed), what it was about, its text.
A line counts once its newline is on the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from types import TracebackType

from data_gen.prompts.backends import Answer
from data_gen.prompts.templates import Request
from jedi.io.config import ConfigError
from jedi.io.files import locked

NAME = "prompts.jsonl"


class ResponseCache:
    """`with ResponseCache(out) as cache:` keeps other writers out of `out/prompts.jsonl`.

    Answers to other requests (of another model, seed or wording) stay in the file and do not match. Threads may
    share a cache.

    Raises:
        FolderInUse: another process writes it. ConfigError: a line that is no answer; but a last line without
        its end, which a killed writer leaves, is cut off.
    """

    def __init__(self, out: str | Path) -> None:
        self.path = Path(out) / NAME
        self._lock = threading.Lock()
        with contextlib.ExitStack() as held:
            held.enter_context(locked(self.path.parent, ".prompts.lock"))
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            held.callback(os.close, self._file)
            self._answers = self._read()
            self._held = held.pop_all()

    def __enter__(self) -> ResponseCache:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._held.close()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, request: Request) -> Answer | None:
        """The answer that this very request got, in this run or an earlier one."""
        return self._answers.get(request.key)

    def add(self, request: Request, answer: Answer) -> None:
        """Appends an answer; when this returns, it is on the disk. A line that cannot be written whole (a full
        disk) is taken back and raises OSError."""
        row = {"key": request.key, "about": request.about, "text": answer.text, "finished": answer.finished}
        # Half of a pair of surrogates, where a limit cut an emoji in two, stays an escape.
        line = json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        with self._lock:
            size = os.fstat(self._file).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._file, line[written:])
                os.fsync(self._file)
            except BaseException as error:
                os.ftruncate(self._file, size)
                if isinstance(error, OSError):
                    error.filename = str(self.path)
                raise
            self._answers[request.key] = answer

    def _read(self) -> dict[str, Answer]:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._file, whole)
        if not data:  # a new file: its name must be on the disk before its lines are
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        answers: dict[str, Answer] = {}
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                row = json.loads(line)
                key, answer = row["key"], Answer(row["text"], row["finished"])
                if not (isinstance(key, str) and isinstance(answer.text, str) and isinstance(answer.finished, bool)):
                    raise TypeError("a field of another type")
            except (ValueError, KeyError, TypeError) as error:
                remedy = "remove the line, and its answer is asked for again"
                raise ConfigError(f"{self.path}, line {number}: not a cached answer ({error}); {remedy}") from None
            answers.setdefault(key, answer)
        return answers
