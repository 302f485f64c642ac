"""Files as they are committed: text ends with one line end and has none of spaces, nothing is large by accident.

python -m tests.whole_files FILE ...    as a hook before a commit; tests/test_front_door.py asks it about all files
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

MOST_BYTES = 500_000
LARGE = ("models/", "assets/")
"""Folders of weights and images, which may be larger."""
TEXTS = {".py", ".md", ".toml", ".yaml", ".yml", ".cff", ".css", ".html", ".sbatch", ".ipynb", ""}


def complaints(files: Iterable[Path], root: Path = Path()) -> Iterator[str]:
    """What is wrong with each of ``files`` (relative to ``root``), one line each."""
    for name in files:
        data = (root / name).read_bytes()
        if len(data) > MOST_BYTES and not name.as_posix().startswith(LARGE):
            yield f"{name}: {len(data):,} bytes; files above {MOST_BYTES:,} belong into {' or '.join(LARGE)}"
        if name.suffix not in TEXTS or not data:
            continue
        if not data.endswith(b"\n") or data.endswith(b"\n\n"):
            yield f"{name}: must end with exactly one line end"
        for number, line in enumerate(data.splitlines(), 1):
            if line != line.rstrip():
                yield f"{name}:{number}: spaces at the end of the line"


if __name__ == "__main__":
    found = list(complaints(map(Path, sys.argv[1:])))
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
