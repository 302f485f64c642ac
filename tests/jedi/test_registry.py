"""Named parts."""

import pytest

from jedi.registry import Registry


def test_names():
    parts = Registry("guidance")
    parts.register("two_branch")(min)
    assert parts.get("two_branch") is min and "two_branch" in parts and list(parts) == ["two_branch"]
    with pytest.raises(ValueError, match="unknown guidance 'two-branch': did you mean 'two_branch'"):
        parts.get("two-branch")
    parts.register("two_branch")(min)  # the same part again: a module imported twice
    with pytest.raises(ValueError, match="'two_branch' is registered already"):
        parts.register("two_branch")(max)
