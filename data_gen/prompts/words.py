"""English, as far as the filters need it: normal forms to compare by. Only Python's own library."""

from __future__ import annotations

import re
import unicodedata

_CUTS = ("with", "in", "on", "at", "from", "for", "wearing", "made", "that", "which", "and")
_SMALL = frozenset(
    re.findall(
        "[a-z]+",
        "a an the of in on at with and or to by into onto over under near its it his her their is are as from for "
        "while that which this some one very through across against between beside behind along among around out up "
        "down off",
    )
)

_TYPOGRAPHY = str.maketrans("\u2018\u2019\u201c\u201d\u2010\u2011\u2013\u2014", "''\"\"----")
_IRREGULAR = {
    "mice": "mouse", "geese": "goose", "men": "man", "women": "woman", "children": "child", "people": "person",
    "feet": "foot", "teeth": "tooth", "loaves": "loaf",
}  # fmt: skip


def plain(text: str) -> str:
    """Lower case without accents; typographic quotes and dashes become plain ones."""
    return unicodedata.normalize("NFKD", text.translate(_TYPOGRAPHY)).encode("ascii", "ignore").decode().lower()


def singular(word: str) -> str:
    """A form that singular and plural share. It need not be a word ("hous", "wolv"): only equality counts."""
    word = _IRREGULAR.get(word, word)
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if len(word) > 2:
        word = word.removesuffix("e")
    return word[:-1] + {"y": "i", "f": "v"}.get(word[-1:], word[-1:])


def tidy(text: str) -> str:
    """One line without typographic quotes, quotes around it or a full stop at its end."""
    return " ".join(text.translate(_TYPOGRAPHY).split()).strip(" \"'.")


def words(text: str) -> list[str]:
    """All words, in order, in their normal form."""
    return [singular(word) for word in _split(text)]


def content_words(text: str) -> list[str]:
    """Those that carry meaning."""
    return [singular(word) for word in _split(text) if word not in _SMALL]


def subject_key(name: str) -> tuple[str, ...]:
    """Equal for names of one subject: "Foxes, red" and "the red fox with a hat" both give ("fox", "red")."""
    return tuple(sorted(set(content_words(_before(name, _CUTS)))))


def head_noun(name: str) -> str:
    """The word that says what it is: "fox" of "red fox with a hat", "bowl" of "bowl of soup"."""
    found = words(_before(name, (*_CUTS, "of")))
    return found[-1] if found else ""


def slug(name: str) -> str:
    """Letters, digits and hyphens: "red-fox"."""
    return re.sub(r"[^a-z0-9]+", "-", plain(name)).strip("-")


def _split(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", plain(text).replace("'s", "").replace("'", ""))


def _before(name: str, cuts: tuple[str, ...]) -> str:
    """The part before the first of these words that is not itself the first."""
    parts = plain(name).split()
    for i, part in enumerate(parts):
        if i and part in cuts:
            return " ".join(parts[:i])
    return " ".join(parts)
