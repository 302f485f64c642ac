"""Text files as editors leave them: marks in front, UTF-16, ends of lines of other systems."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

from jedi.errors import InputError

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def is_text(name: str) -> bool:
    """Whether a name or argument, as the system gave it, is UTF-8. If not, it can stand in no record, log or page."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text(path: str | Path, name: str = "") -> str:
    """The content of a text file, its lines ended by ``\\n``: UTF-8, or UTF-16 with its mark in front.

    Raises:
        InputError: another encoding, which would be read as wrong letters; a pipe or a device. It begins with ``name``,
            else the path.
        OSError: the file cannot be read.
    """
    path, name = Path(path), name or str(path)
    if path.exists() and not path.is_file() and not path.is_dir():  # to open a pipe would wait for ever
        raise InputError(f"{name}: not a regular file")
    data = path.read_bytes()
    try:
        text = data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x} at position {error.start}"
        raise InputError(f"{name}: not a text file in UTF-8 ({found}); save it as UTF-8") from None
    if "\0" in text:
        raise InputError(f"{name}: not a text file in UTF-8 (zero bytes, as UTF-16 has); save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | Path, name: str = "") -> list[str]:
    """The lines of a text file that hold something, without blanks around them. Raises as :func:`read_text`.

    Lines end where an editor shows it: not at the separators of Unicode that pasted text brings along.
    """
    return [line.strip() for line in read_text(path, name).split("\n") if line.strip()]


def read_json(path: str | Path, name: str = "") -> Any:
    """What a JSON file holds. Raises as :func:`read_text`, and InputError for what is no JSON, with its place."""
    text = read_text(path, name)
    try:
        value = json.loads(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):  # half of a pair is JSON, but no letter, and can be written nowhere
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # the number of more than 4,300 digits is a plain ValueError
        raise InputError(f"{name or path}: not JSON: {error}") from None
    return value
