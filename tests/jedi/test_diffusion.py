"""Noise schedule, conversions, loss weights."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from jedi.diffusion import LOSS_WEIGHTINGS, NoiseSchedule
from jedi.errors import InputError

TYPES = ["epsilon", "sample", "v_prediction"]


def schedule(prediction_type="v_prediction", **kwargs):
    return NoiseSchedule.from_scheduler(DDPMScheduler(prediction_type=prediction_type, **kwargs))


def test_forward_process_and_velocity_are_diffusers():
    scheduler = DDPMScheduler(prediction_type="v_prediction")
    ours = NoiseSchedule.from_scheduler(scheduler)
    x0, noise, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 400, 999])
    torch.testing.assert_close(ours.add_noise(x0, noise, t), scheduler.add_noise(x0, noise, t))
    torch.testing.assert_close(ours.target(x0, noise, t), scheduler.get_velocity(x0, noise, t))


def test_timesteps_of_sets_and_of_images_broadcast():
    x0, noise = torch.randn(2, 3, 4, 8, 8), torch.randn(2, 3, 4, 8, 8)
    per_set = schedule().add_noise(x0, noise, torch.tensor([7, 800]))
    per_image = schedule().add_noise(x0, noise, torch.tensor([[7] * 3, [800] * 3]))
    assert torch.equal(per_set, per_image)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_conversions_undo_the_target(prediction_type):
    s, t = schedule(prediction_type), torch.tensor([1, 500, 900])
    x0, noise = torch.randn(3, 2, 4, 4, dtype=torch.float64), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    x_t, prediction = s.add_noise(x0, noise, t), s.target(x0, noise, t)
    torch.testing.assert_close(s.to_x0(prediction, x_t, t), x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(s.to_eps(prediction, x_t, t), noise, rtol=1e-4, atol=1e-4)
    v = schedule("v_prediction").target(x0, noise, t)
    torch.testing.assert_close(s.to_v(prediction, x_t, t), v, rtol=1e-4, atol=1e-4)


def test_min_snr_weights_are_one_loss_in_three_dresses():
    """min(S, g) on the error of x0, whatever is predicted: eps errors are S times, v errors S + 1 times as large."""
    t = torch.tensor([5, 300, 950])
    weight = LOSS_WEIGHTINGS.get("min_snr")
    snr = schedule().snr(t)
    expected = snr.clamp(max=5.0)
    torch.testing.assert_close(weight(schedule("sample"), t, 5.0), expected)
    torch.testing.assert_close(weight(schedule("epsilon"), t, 5.0) * snr, expected)
    torch.testing.assert_close(weight(schedule("v_prediction"), t, 5.0) * (snr + 1), expected)
    assert (expected[0] == 5.0) and (expected[2] < 1)


def test_zero_terminal_snr():
    for kind in (DDIMScheduler, UniPCMultistepScheduler):  # the second stores 2^-24 in place of 0
        s = NoiseSchedule.from_scheduler(kind(rescale_betas_zero_snr=True, prediction_type="v_prediction"))
        assert s.zero_terminal_snr and s.snr(torch.tensor(999)) == 0
    assert not schedule().zero_terminal_snr


@pytest.mark.parametrize("kind", [DDIMScheduler, UniPCMultistepScheduler])
def test_epsilon_with_zero_terminal_snr_is_refused_whatever_the_weighting(kind):
    """With `uniform` it trained, and sampled black."""
    with pytest.raises(InputError, match="zero-terminal-SNR .* Use v_prediction or sample prediction"):
        NoiseSchedule.from_scheduler(kind(rescale_betas_zero_snr=True, prediction_type="epsilon"))


@pytest.mark.parametrize("betas", [[0.1, float("nan")], [0.1, -0.2], [1.5, 0.1], [0.1, float("inf")], [1.0, 0.1]])
def test_noise_levels_that_make_no_sense_are_refused(betas):
    with pytest.raises(InputError, match="alphas_cumprod must fall from at most 1 to at least 0"):
        NoiseSchedule.from_scheduler(DDIMScheduler(num_train_timesteps=2, trained_betas=betas))


def test_other_schedulers_are_refused():
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod"):
        NoiseSchedule.from_scheduler(FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="prediction_type 'flow' is none of"):
        NoiseSchedule(torch.ones(3), "flow")
