"""English as captions need it."""

from __future__ import annotations


def is_plural(noun: str) -> bool:
    """Whether a noun takes no article: "grapes" does not, "pile of books" and "bus" do."""
    head = noun.split(" of ")[0]
    return head.endswith("s") and not head.endswith(("ss", "us", "is"))


def with_article(noun: str) -> str:
    """The noun as captions say it: "a fox", "an apple", "grapes"."""
    if is_plural(noun):
        return noun
    sounds_like_consonant = noun.startswith(("uni", "ute", "one", "eu"))
    return f"{'an' if noun[0] in 'aeiou' and not sounds_like_consonant else 'a'} {noun}"
