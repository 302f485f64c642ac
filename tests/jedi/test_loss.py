"""The joint loss, on networks whose answer is known."""

import pytest
import torch
from torch import nn

from jedi.conditioning import ConditioningConfig, StepPlan, draw_sets
from jedi.diffusion import LOSS_WEIGHTINGS, NoiseSchedule
from jedi.loss import joint_loss, noisy_slot
from jedi.text import EncodedText
from jedi.unet import JointUNet

B, N, C, S = 3, 4, 4, 8


class Answer(nn.Module):
    """Records its arguments and predicts ``truth``."""

    def __init__(self, truth):
        super().__init__()
        self.truth = truth

    def forward(self, sample, timestep, text, num_references, mode):
        self.sample, self.timestep, self.text, self.k, self.mode = sample, timestep, text, num_references, mode
        return self.truth[:, -sample.shape[1] :]


@pytest.fixture
def schedule(tiny_components):
    return NoiseSchedule.from_scheduler(tiny_components["scheduler"])


@pytest.fixture
def latents():
    return torch.randn(B, N, C, S, S)


def draws(plan, **kwargs):
    return draw_sets(0, range(B), plan, (N, C, S, S), 1000, ConditioningConfig(**kwargs))


def test_the_truth_costs_nothing_and_an_error_its_square(schedule, latents):
    plan = StepPlan(2, "one_way")
    d = draws(plan, partly_given_prob=1.0)
    truth = schedule.target(latents, d.noise, d.timestep)
    text = EncodedText(torch.zeros(B, N, 1, 1))
    assert joint_loss(Answer(truth), schedule, latents, text, d, plan).loss == 0
    off = joint_loss(Answer(truth + 3 * d.mask), schedule, latents, text, d, plan)
    torch.testing.assert_close(off.loss, torch.tensor(9.0))  # per free pixel, whatever the box
    torch.testing.assert_close(off.per_target, torch.full((B, 2), 9.0))
    given = joint_loss(Answer(truth + 3 * (1 - d.mask)), schedule, latents, text, d, plan)
    assert given.loss == 0  # what is given is not asked for


def test_draws_may_lie_on_the_cpu_and_nothing_waits_for_the_device(schedule):
    plan, shape = StepPlan(2, "one_way"), (B, N, C, S, S)
    network = Answer(torch.zeros(shape, device="meta"))  # to look at a value of this device is an error
    loss = joint_loss(network, schedule, torch.zeros(shape, device="meta"), torch.zeros(1), draws(plan), plan).loss
    assert loss.device.type == network.sample.device.type == "meta"


def test_weights_are_applied_per_set(schedule, latents):
    plan = StepPlan(1, "mutual")
    d = draws(plan)
    truth = schedule.target(latents, d.noise, d.timestep)
    loss = joint_loss(Answer(truth + 1), schedule, latents, torch.zeros(B, N, 1, 1), d, plan, "min_snr").loss
    torch.testing.assert_close(loss, LOSS_WEIGHTINGS.get("min_snr")(schedule, d.timestep, 5.0).mean())


def test_noisy_slots(schedule, latents):
    for mode in ("one_way", "mutual"):
        d = draws(StepPlan(2, mode))
        slot = noisy_slot(schedule, latents, d, StepPlan(2, mode))
        assert torch.equal(slot[:, :2], latents[:, :2]) == (mode == "one_way")
        torch.testing.assert_close(slot[:, 2:], schedule.add_noise(latents, d.noise, d.timestep)[:, 2:])


def test_removed_references_shrink_the_set(schedule, latents):
    plan = StepPlan(3, "one_way", drop_references=True)
    network = Answer(torch.zeros(B, N, C, S, S))
    text = EncodedText(torch.arange(N).reshape(1, N, 1, 1).expand(B, N, 1, 1).float())
    joint_loss(network, schedule, latents, text, draws(plan), plan)
    assert network.sample.shape[1] == 1 and network.k == 0 and network.text.embeds.unique().tolist() == [3.0]


def test_nothing_to_generate_is_an_error(schedule, latents):
    plan = StepPlan(N, "mutual")
    with pytest.raises(ValueError, match="4 images with 4 references has no target"):
        joint_loss(Answer(latents), schedule, latents, torch.zeros(B, N, 1, 1), draws(plan), plan)
    plan = StepPlan(1, "mutual")
    d = draws(plan)
    d.mask[0, 2] = 0
    with pytest.raises(ValueError, match="given as a whole"):
        joint_loss(Answer(latents), schedule, latents, torch.zeros(B, N, 1, 1), d, plan)


def test_property_6_accumulated_gradients_are_those_of_the_whole_batch(schedule, latents, tiny_components):
    unet = JointUNet.from_base(tiny_components["unet"]).eval()
    plan, text = StepPlan(2, "one_way"), EncodedText(torch.randn(B, N, 5, 32))

    def gradients(parts):
        unet.zero_grad()
        for part in parts:
            d = draw_sets(0, part, plan, (N, C, S, S), 1000, ConditioningConfig())
            (joint_loss(unet, schedule, latents[part], text[part], d, plan, "min_snr").loss / len(parts)).backward()
        return [p.grad.clone() for p in unet.parameters()]

    for whole, sum_ in zip(gradients([[0, 1, 2]]), gradients([[0], [1], [2]]), strict=True):
        torch.testing.assert_close(whole, sum_, rtol=1e-3, atol=1e-6)
