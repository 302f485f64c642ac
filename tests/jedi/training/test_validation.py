"""The reference gain: zero for a network that ignores references, right for one that copies them."""

import pytest
import torch
from torch import nn

from jedi.data import SetIndex, SetRecord
from jedi.diffusion import NoiseSchedule
from jedi.text import EncodedText
from jedi.training.validation import HeldOutSets, choose_sets, reference_gain, reference_losses, wrong_partners
from tests import tiny


@pytest.fixture
def schedule():
    """Predicts x0: what a perfect answer is, is easy to say."""
    return NoiseSchedule(NoiseSchedule.from_scheduler(tiny.scheduler()).alphas_cumprod, "sample")


@pytest.fixture
def sets():
    """Three subjects; all images of a subject are alike."""
    latents = torch.randn(3, 1, 4, 8, 8).expand(3, 3, 4, 8, 8)
    return HeldOutSets(
        latents,
        EncodedText(torch.zeros(3, 16, 32)),
        EncodedText(torch.zeros(1, 16, 32)),
        wrong_partners(["a", "b", "c"]),
    )


class Copies(nn.Module):
    """Answers with the mean of the given latents, or with 0 when there are none."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, sample, timestep, text, num_references=0, mode="one_way", cache=None):
        self.calls.append((tuple(sample.shape), timestep.tolist(), mode))
        answer = torch.zeros_like(sample[:, :, :4])
        if num_references:
            answer += sample[:, :num_references, 5:].mean(1, keepdim=True)
        return answer


class Ignores(nn.Module):
    def forward(self, sample, timestep, text, num_references=0, mode="one_way", cache=None):
        return sample[:, :, :4] * 0.5


def test_a_network_that_copies_its_references_has_all_the_gain(schedule, sets):
    losses = reference_losses(Copies(), schedule, sets, ["one_way", "mutual"], bins=2)
    assert losses.shape == (3, 2, 3, 2)
    assert losses[:, :, 0].max() < 1e-10
    x = sets.latents[:, 0]
    torch.testing.assert_close(losses[:, 0, 2, 0], x.square().mean((1, 2, 3)))
    torch.testing.assert_close(losses[:, 1, 1, 1], (x - x[sets.wrong]).square().mean((1, 2, 3)))
    metrics = reference_gain(losses, ["one_way", "mutual"])
    assert metrics["gain/wrong"] == metrics["gain/none"] == pytest.approx(1.0)
    assert metrics["heldout/loss"] == pytest.approx(0.0, abs=1e-9)


def test_a_network_that_ignores_its_references_has_none(schedule, sets):
    metrics = reference_gain(reference_losses(Ignores(), schedule, sets, bins=3), ["one_way"])
    assert metrics["heldout/loss"] > 0.01
    for name in ("gain/wrong", "gain/none", "gain/wrong/bin2", "gain/none/bin0", "gain/wrong/one_way"):
        assert metrics[name] == pytest.approx(0.0, abs=1e-6)


def test_gains_are_relative_drops():
    losses = torch.tensor([[[[1.0, 3.0], [2.0, 6.0], [4.0, 4.0]]]])
    metrics = reference_gain(losses, ["mutual"])
    assert metrics["heldout/loss"] == metrics["heldout/loss/mutual"] == 2.0
    assert metrics["gain/wrong"] == metrics["gain/wrong/bin0"] == metrics["gain/wrong/bin1"] == 0.5
    assert metrics["gain/none"] == metrics["gain/none/mutual"] == 0.5
    assert (metrics["gain/none/bin0"], metrics["gain/none/bin1"]) == (0.75, 0.25)


def test_the_draws_are_fixed_stratified_and_the_same_for_all_conditions(schedule, sets):
    first, second = Copies(), Copies()
    reference_losses(first, schedule, sets, ["one_way"], bins=4, batch_size=12)
    reference_losses(second, schedule, sets, ["one_way"], bins=4, batch_size=12)
    assert first.calls == second.calls
    (_, right, _), (_, wrong, _), (_, none, _) = first.calls
    assert right == wrong == none
    assert [t * 4 // schedule.num_timesteps for t in right] == [0, 1, 2, 3] * 3
    assert len(set(right)) > 8


def test_batches_and_ranks_do_not_change_the_numbers(schedule, sets):
    whole = reference_losses(Ignores(), schedule, sets, bins=2, batch_size=6)
    small = reference_losses(Ignores(), schedule, sets, bins=2, batch_size=1)
    ranks = [reference_losses(Ignores(), schedule, sets, bins=2, only=range(r, 3, 2)) for r in range(2)]
    torch.testing.assert_close(small, whole)
    torch.testing.assert_close(sum(ranks), whole)


def test_wrong_partners_are_of_another_subject():
    subjects = ["a", "a", "b", "a", "b", "c"]
    assert all(subjects[i] != subjects[j] for i, j in enumerate(wrong_partners(subjects).tolist()))
    with pytest.raises(ValueError, match="all 2 are of 'a'"):
        wrong_partners(["a", "a"])


def test_sets_are_chosen_by_size_and_spread():
    records = [SetRecord(0, str(i), n, 64, 64) for i, n in enumerate([4, 2, 4, 4, 3, 4])]
    index = SetIndex((), (*records, SetRecord(0, "wide", 4, 99, 64)), "")
    assert choose_sets(index, 2, None, 1) == ([0, 3], 3)
    assert choose_sets(index, 9, 2, 1) == ([0, 2, 3, 4, 5], 2)
    assert choose_sets(index, 1, None, 2) == ([0], 2)
    with pytest.raises(ValueError, match="at most 4 images, too few for 4 references and 1 more"):
        choose_sets(index, 2, 4, 1)


def test_the_commonest_size_is_that_of_the_sets_that_are_large_enough():
    records = [SetRecord(0, str(i), n, size, 64) for i, (n, size) in enumerate([(2, 64), (2, 64), (4, 99)])]
    assert choose_sets(SetIndex((), tuple(records), ""), 2, 3, 1) == ([2], 3)


def test_no_more_references_than_trained_unless_asked_for():
    index = SetIndex((), tuple(SetRecord(0, str(i), 4, 64, 64) for i in range(3)), "")
    assert choose_sets(index, 3, None, 1, max_references=2)[1] == 2
    assert choose_sets(index, 3, None, 2, max_references=9)[1] == 2
    assert choose_sets(index, 3, None, 1, max_references=0)[1] == 1  # without any there is no gain to measure
    assert choose_sets(index, 3, 3, 1, max_references=1)[1] == 3
