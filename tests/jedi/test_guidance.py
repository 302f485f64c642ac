"""Guidance rules by their formulas."""

import pytest
import torch

from jedi.guidance import GUIDANCE, in_interval
from jedi.io.command_line import GUIDANCE_RULES


@pytest.fixture
def branches():
    return {name: torch.randn(2, 1, 4, 8, 8, dtype=torch.float64) for name in ("none", "refs", "text", "full")}


def test_formulas(branches):
    none, refs, full = branches["none"], branches["refs"], branches["full"]
    for name, expected in {
        "two_branch": refs + 3 * (full - refs),
        "plain": none + 3 * (full - none),
        "three_branch": none + 2 * (refs - none) + 3 * (full - refs),
    }.items():
        torch.testing.assert_close(GUIDANCE.get(name).combine(branches, 3.0, 2.0), expected)


@pytest.mark.parametrize("name", ["two_branch", "plain", "three_branch"])
def test_scales_of_one_give_the_full_prediction(branches, name):
    rule = GUIDANCE.get(name)
    assert "full" in rule.branches
    torch.testing.assert_close(rule.combine(branches, 1.0, 1.0), branches["full"])


def test_rescaled_differences_have_the_smaller_norm(branches):
    branches["refs"] = branches["none"] + 10 * torch.randn_like(branches["none"])
    rule = GUIDANCE.get("three_branch_rescaled").combine
    by_reference = rule(branches, 0.0, 1.0) - branches["none"]
    by_text = rule(branches, 1.0, 0.0) - branches["none"]
    smaller = torch.minimum(
        *(x.flatten(1).norm(dim=1) for x in (branches["refs"] - branches["none"], branches["full"] - branches["refs"]))
    )
    for part in (by_reference, by_text):
        torch.testing.assert_close(part.flatten(1).norm(dim=1), smaller)
    equal = dict.fromkeys(branches, branches["none"])
    assert torch.equal(rule(equal, 5.0, 5.0), branches["none"])  # no division by zero


def test_rescaled_without_references_is_guidance_by_text(branches):
    """Then `refs` is `none`: there is one difference, and it keeps its norm."""
    branches["refs"] = branches["none"]
    found = GUIDANCE.get("three_branch_rescaled").combine(branches, 3.0, 2.0)
    torch.testing.assert_close(found, branches["none"] + 3 * (branches["full"] - branches["none"]))


def test_interval_in_shares_of_the_run():
    assert all(in_interval(i, 7, (0.0, 1.0)) for i in range(7))
    assert [in_interval(i, 10, (0.2, 0.5)) for i in range(10)] == [False] * 2 + [True] * 3 + [False] * 5
    assert not any(in_interval(i, 10, (0.0, 0.0)) for i in range(10))


def test_help_names_all_rules():
    """By a list, since it loads no torch."""
    ours = {name for name in GUIDANCE if GUIDANCE.get(name).combine.__module__ == "jedi.guidance"}
    assert ours == set(GUIDANCE_RULES)
