"""Named parts."""

import runpy

import pytest

from jedi.io.registry import Registry


def test_names():
    parts = Registry("guidance")
    parts.register("two_branch")(min)
    assert parts.get("two_branch") is min and "two_branch" in parts and list(parts) == ["two_branch"]
    with pytest.raises(ValueError, match="unknown guidance 'two-branch': did you mean 'two_branch'"):
        parts.get("two-branch")
    parts.register("two_branch")(min)  # the same part again: a module imported twice
    with pytest.raises(ValueError, match="'two_branch' is registered already"):
        parts.register("two_branch")(max)


def test_a_function_is_known_by_where_it_is_written(tmp_path):
    (tmp_path / "one.py").write_text("def rule(): return 1\n")
    (tmp_path / "two.py").write_text("def rule(): return 2\n")
    one, again, two = (runpy.run_path(tmp_path / name)["rule"] for name in ("one.py", "one.py", "two.py"))
    for wrap in (lambda rule: rule, lambda rule: (("refs", "full"), rule)):  # a guidance rule is a tuple
        parts = Registry("rule")
        parts.register("mine")(wrap(one))
        parts.register("mine")(wrap(again))  # another object, the same lines
        with pytest.raises(ValueError, match="'mine' is registered already"):
            parts.register("mine")(wrap(two))  # the same name, other lines
