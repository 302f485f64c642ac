"""What sources of found or described subjects share: ids, the split, sharing images out, templates, safe paths."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from data_gen.context import Context
from data_gen.english import with_article
from jedi.io.config import ConfigError
from jedi.io.texts import is_text

T = TypeVar("T")
_SYSTEM = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")


def is_held_out(identity: str, fraction: float = 0.1) -> bool:
    """Whether a subject is kept out of training: for ever, in every data set, on every machine.

    The rule: the first 64 bits of sha256(identity in UTF-8 and Unicode's form NFC), as a fraction of 2**64, lie below
    `fraction`. So a larger fraction holds out all that a smaller one did, and a name counts as one however a file
    system or an editor writes its accents.
    """
    return int.from_bytes(hashlib.sha256(composed(identity).encode()).digest()[:8], "big") < fraction * 2**64


def split_of(identity: str, fraction: float = 0.1) -> str:
    return "heldout" if is_held_out(identity, fraction) else "train"


def heldout_rule(identity: str, fraction: float = 0.1) -> str:
    """What the report says of :func:`is_held_out`."""
    return (
        f"A subject is held out when the first 64 bits of the sha256 of {identity}, as a share of 2**64, are below "
        f"{fraction:g}: the same subjects in every data set, on every machine (data_gen.sources.subjects.is_held_out)."
    )


PLAIN = " (small letters, no spaces, hyphens or underscores)"  # what `same_name` makes of a name


def composed(name: str) -> str:
    """Unicode's form NFC: letters with accents as one character, where macOS writes two."""
    return unicodedata.normalize("NFC", name)


def words(name: str) -> str:
    """A name as captions say it: "red_fox-2" is "red fox 2"."""
    return " ".join(re.split(r"[\s_-]+", composed(name))).strip()


def slug(name: str) -> str:
    """A name as an id: small letters and digits of any script, joined by hyphens."""
    return "-".join(_parts(name))


def same_name(name: str) -> str:
    """Equal for names that differ only in case, spaces, signs, and the way in which accents are written."""
    return "".join(_parts(name)) or composed(name)  # a name of signs alone, an emoji say, is itself


def _parts(name: str) -> list[str]:
    """Runs of letters and digits, with the marks that belong to them: in Hindi these are vowels."""
    letters = composed(composed(name).casefold())
    return "".join(x if unicodedata.category(x)[0] in "LMN" else " " for x in letters).split()


def share_out(images: Sequence[T], most: int) -> list[list[T]]:
    """All images of a subject as sets of at most `most`, as equal in size as can be, each image once.

    Neighbours go to different sets: frames that follow one another in a film show nearly the same.
    """
    sets = -(-len(images) // most)
    return [list(images[i::sets]) for i in range(sets)]


NAMES = ("name", "a_name", "class", "a_class")


def names(name: str, kind: str) -> dict[str, str]:
    """What templates may say of a subject, by `NAMES`."""
    return {"name": name, "a_name": _article(name), "class": kind, "a_class": _article(kind)}


def _article(name: str) -> str:
    """ "a fox", "an Eames chair"; a name that brings its own article keeps it."""
    if not name or name.split()[0].lower() in ("a", "an", "the"):
        return name
    said = with_article(name.lower())
    return name if said == name.lower() else f"{said.split()[0]} {name}"


def check_template(key: str, template: str, known: Sequence[str]) -> None:
    """Raises ConfigError unless `template` holds no other placeholder than the known ones."""
    try:
        template.format_map(dict.fromkeys(known, ""))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{key} is {template!r}: {error} is not a placeholder; "
            f"known are {', '.join(f'{{{name}}}' for name in known)}"
        ) from None


def given_folder(context: Context, key: str, path: str) -> Path:
    """The folder that a configuration names. Raises ConfigError where there is none, and where `out` lies in it."""
    if not path:
        raise ConfigError(f"{key} is empty: name the folder to read, for instance {key}=/data/photos")
    if not Path(path).is_dir():
        raise ConfigError(f"{key}={path}: no such folder")
    check_apart(context, key, path)
    return Path(path)


def check_apart(context: Context, key: str, path: str) -> None:
    """Raises ConfigError where `out` is a folder that is read, or lies in it: what is written would be read as well."""
    if Path(context.out).resolve().is_relative_to(Path(path).resolve()):
        raise ConfigError(f"out={context.out} is inside {key}={path}, which is only read; give another folder")


def is_system(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden, or made by macOS' archives, Windows, network storage."""
    return name.startswith(".") or name.casefold() in _SYSTEM


def inside(root: Path, path: Path) -> Path:
    """`path`, if it stays in `root` when links are followed. Raises ConfigError where it does not."""
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:  # which of them, depends on Python's version
        raise ConfigError(f"{shown(path)}: a link that leads nowhere ({error})") from None
    if not target.is_relative_to(root.resolve()):
        raise ConfigError(f"{shown(path)} leads out of {root} (to {target}): only files in that folder are read")
    return path


def shown(path: Path) -> str:
    """A path that can be printed, whatever bytes are in it."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def unusable(path: Path) -> str | None:
    """Why a file cannot be read at all, whatever its kind; None for one that may be."""
    if not path.is_file():
        return "no regular file (a pipe, a socket, or a link that leads nowhere)"
    if not is_text(path.name):
        return "a name that is not UTF-8"
    return None
