"""Schedulers, judged by what they do: noise levels, generators; another one for the model's own."""

import diffusers
import pytest
import torch

from jedi.errors import InputError
from jedi.schedulers import SCHEDULERS, check_sampler, exchange, own_steps, start
from tests import tiny
from tests.jedi.sampling import REFERENCES, box_mask, latents, random_image

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
GOOD = [
    ("DDIM", {}), ("DDPM", {}), ("PNDM", {}), ("PNDM", {"skip_prk_steps": True}), ("DEISMultistep", {}),
    ("DPMSolverMultistep", {}), ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistep", {"use_karras_sigmas": True}), ("DPMSolverSinglestep", {}), ("UniPCMultistep", {}),
    ("EulerDiscrete", {}), ("EulerDiscrete", {"use_karras_sigmas": True}), ("EulerAncestralDiscrete", {}),
    ("HeunDiscrete", {}), ("LCM", {}), ("TCD", {}),
]  # fmt: skip


def made(name, **options):
    return getattr(diffusers, f"{name}Scheduler").from_config(tiny.scheduler().config, **options)


class Unruled(diffusers.EulerAncestralDiscreteScheduler):
    """Draws from the global generator, as DPMSolverSDEScheduler does."""

    def step(self, model_output, timestep, sample, return_dict=True):
        return super().step(model_output, timestep, sample, return_dict=return_dict)


class Between(diffusers.EulerDiscreteScheduler):
    """Its add_noise gives another level than its samples have, as DPMSolverSDEScheduler's does."""

    def add_noise(self, original_samples, noise, timesteps):
        return super().add_noise(original_samples, 0.9 * noise, timesteps) if self.step_index else (
            super().add_noise(original_samples, noise, timesteps)
        )  # fmt: skip


@pytest.mark.parametrize(("name", "options"), GOOD)
@pytest.mark.parametrize("steps", [5, 20])
def test_schedulers_whose_levels_agree_are_taken(name, options, steps):
    check_sampler(made(name, **options), steps, "for an edit")


@pytest.mark.parametrize("own", [{"timesteps": [1, 9]}, {"timesteps": []}, {"sigmas": [3.0, 3.0]}])
def test_steps_of_ones_own_fall(own):
    with pytest.raises(InputError, match=f"{next(iter(own))} must be falling numbers, at least one"):
        own_steps(made("EulerDiscrete"), own.get("timesteps"), own.get("sigmas"))


@pytest.mark.parametrize("own", [{"timesteps": [999, 500, 100]}, {"timesteps": [1000, 3]}])
def test_steps_of_ones_own_are_tried(own):
    scheduler = made("EulerDiscrete")
    if own["timesteps"][0] == 999:
        assert start(scheduler, 30, own=own).tolist() == own["timesteps"]
        check_sampler(scheduler, 30, "for an edit", own)
    else:
        with pytest.raises(InputError, match=r"timesteps=\[1000, 3\] (is too many|does not suit)"):
            start(scheduler, 30, own=own)


@pytest.mark.parametrize("zero", [False, True])
def test_whatever_the_model_s_own_settings(zero):
    """A zero-terminal-SNR model that predicts v: the trial asks of the class, not of that noise schedule."""
    for name in ("DDIM", "DPMSolverMultistep", "EulerDiscrete"):
        check_sampler(made(name, rescale_betas_zero_snr=zero, timestep_spacing="trailing"), 10, "for an edit")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["KDPM2Discrete", "KDPM2AncestralDiscrete", Between])
def test_schedulers_that_go_between_their_levels_are_refused_where_something_is_given(name):
    scheduler = made(name) if isinstance(name, str) else name.from_config(tiny.scheduler().config)
    check_sampler(scheduler, 10, "")
    with pytest.raises(InputError, match=r"cannot be used for an edit: .* would be \d+% off"):
        check_sampler(scheduler, 10, "for an edit")


@pytest.mark.parametrize("use", ["", "for an edit"])
def test_noise_that_no_generator_rules_is_refused(use):
    with pytest.raises(InputError, match="Unruled draws noise that ignores the generator"):
        check_sampler(Unruled.from_config(tiny.scheduler().config), 5, use)


@pytest.mark.parametrize("use", ["", "for an edit"])
def test_a_scheduler_whose_steps_need_more_is_refused(use):
    with pytest.raises(InputError, match=r"RePaintScheduler cannot be used: its steps need original_image, mask; take"):
        check_sampler(diffusers.RePaintScheduler(), 5, use)


def test_what_is_no_sampler_is_refused():
    for name in ("DPMSolverMultistepInverse", "DDIMInverse"):
        with pytest.raises(InputError, match=f"{name}Scheduler cannot take 5 steps"):
            check_sampler(made(name), 5, "for an edit")


def test_too_many_steps_are_refused(pipe):
    for steps in (1001, 10**6):
        with pytest.raises(InputError, match=f"num_inference_steps={steps}"):
            latents(pipe, num_inference_steps=steps)


def test_a_call_asks_for_what_it_needs(pipe):
    config = pipe.scheduler.config
    edit = {"image": random_image(7), "mask_image": box_mask((32, 32), (0, 0, 16, 32))}
    pipe.scheduler = Between.from_config(config)
    latents(pipe)
    latents(pipe, mode="mutual", references=None)
    for options, use in ((edit, "for an edit"), ({"mode": "mutual", "references": REFERENCES}, "in mode 'mutual'")):
        with pytest.raises(InputError, match=f"Between cannot be used {use}"):
            latents(pipe, **options)
    pipe.scheduler = Unruled.from_config(config)
    with pytest.raises(InputError, match="ignores the generator"):
        latents(pipe)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_another_scheduler_means_what_the_model_s_own_means(pipe, name):
    """diffusers' from_config takes DDIM's and DDPM's own default where a model's file does not name clip_sample."""
    own = {key: value for key, value in pipe.scheduler.config.items() if not key.startswith("_")}
    unnamed = {key: value for key, value in own.items() if "clip" not in key and "threshold" not in key}
    pipe.scheduler = diffusers.PNDMScheduler.from_config(unnamed, set_alpha_to_one=False, steps_offset=1)
    if name in ("ddim", "ddpm"):
        assert getattr(diffusers, SCHEDULERS[name]).from_config(pipe.scheduler.config).config.clip_sample
    other = exchange(pipe.scheduler, name)
    assert type(other).__name__ == SCHEDULERS[name]
    assert not other.config.get("clip_sample") and not other.config.get("thresholding")
    assert other.config.get("set_alpha_to_one", False) is False
    assert (other.config.steps_offset, other.config.prediction_type) == (1, "v_prediction")
    torch.testing.assert_close(other.alphas_cumprod, pipe.scheduler.alphas_cumprod)
    pipe.scheduler = other
    assert latents(pipe, mode="mutual").isfinite().all()


def test_what_the_model_says_and_what_its_class_means_is_kept():
    clips = diffusers.DDIMScheduler(clip_sample=True, clip_sample_range=2.0, timestep_spacing="trailing")
    found = exchange(clips, "ddpm").config
    assert (found.clip_sample, found.clip_sample_range, found.timestep_spacing) == (True, 2.0, "trailing")
    by_default = diffusers.DDIMScheduler.from_config({"num_train_timesteps": 100})
    assert exchange(by_default, "euler").config.timestep_spacing == "leading"  # Euler's own would be linspace
    assert exchange(diffusers.EulerDiscreteScheduler(), "ddim").config.set_alpha_to_one is True
