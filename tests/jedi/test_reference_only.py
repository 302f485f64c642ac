"""Mode reference_only: what an untrained base does with references (docs/method.md §3)."""

import logging

import pytest
import torch
from diffusers import StableDiffusionPipeline

import train
from jedi import JediPipeline
from jedi.attention import ATTENTION_MODES
from jedi.conditioning import ConditioningConfig, StepPlan, draw_step
from jedi.diffusion import NoiseSchedule
from jedi.errors import InputError
from jedi.loss import joint_loss
from jedi.pipeline import image_generators
from jedi.text import EncodedText
from jedi.training.load_run import load_run
from tests import tiny
from tests.jedi.sampling import REFERENCES, STEPS, close, latents, record_calls
from tests.jedi.test_loss import Answer, draws
from tests.test_train import write_recipe

C = tiny.LATENT_CHANNELS


@pytest.fixture
def untrained(tiny_base, caplog):
    with caplog.at_level(logging.WARNING, "jedi"):
        pipe = JediPipeline.from_pretrained(tiny_base)
    pipe.set_progress_bar_config(disable=True)
    assert "it takes references in mode reference_only, without promise of quality" in caplog.text
    assert "untrained by JeDi: references in mode reference_only" in pipe.config.knows  # what sample.py says
    return pipe


def test_a_plain_base_takes_references_without_training(untrained, tiny_base):
    stock = StableDiffusionPipeline.from_pretrained(tiny_base)
    stock.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": STEPS, "guidance_scale": 5.0, "output_type": "latent", "height": 32, "width": 32}
    wanted = stock("a cat", generator=image_generators(0, 1), **options).images
    plain = untrained("a cat", generator=image_generators(0, 1), **options, guidance="two_branch").images
    assert close(plain, wanted, 1e-5)
    shown, other = latents(untrained), latents(untrained, references=REFERENCES[:1])
    assert not close(shown, latents(untrained, references=None), 1e-3) and not close(shown, other, 1e-3)
    for mode in ("one_way", "mutual"):
        with pytest.raises(InputError, match="this model was trained in reference_only"):
            latents(untrained, mode=mode)
    with pytest.raises(InputError, match="references cannot be cached in mode reference_only"):
        untrained.encode_references(REFERENCES)


def test_references_enter_at_the_noise_level_of_the_targets_and_are_not_given(untrained, monkeypatch):
    seen = record_calls(monkeypatch, lambda sample: sample.clone())
    latents(untrained, guidance_scale=1.0, image_guidance_scale=1.0)
    assert len(seen) == STEPS
    for sample in seen:
        assert sample[:, :, C].eq(1).all() and sample[:, :, C + 1 :].eq(0).all()  # mask, given
    first, last = (sample[0, :2, :C] for sample in (seen[0], seen[-1]))
    assert not close(first, last, 0.1)


def test_references_do_not_look_at_the_targets(untrained):
    unet, k = untrained.joint_unet, 2
    sample, text = torch.randn(1, 3, 2 * C + 1, 8, 8), EncodedText(torch.randn(1, 3, 16, tiny.TEXT_WIDTH))
    other = sample.clone()
    other[:, k:] += 1
    with torch.no_grad():
        out, moved = (unet(x, torch.tensor([500]), text, k, "reference_only") for x in (sample, other))
    assert close(out[:, :k], moved[:, :k], 1e-5) and not close(out[:, k:], moved[:, k:], 1e-2)


@pytest.mark.slow
def test_it_is_a_mode_to_train_in(tmp_path, tiny_base, shards):
    recipe = write_recipe(tmp_path, tiny_base, shards)
    assert train.main(["--config", str(recipe), "max_steps=2", "conditioning.modes=[reference_only]"]) == 0
    pipe = load_run(tmp_path / "run")
    assert pipe.config.trained_modes == ["reference_only"]
    policy = ConditioningConfig(modes=["reference_only", "one_way"])
    assert {draw_step(0, step, 4, policy).mode for step in range(20)} == {"reference_only", "one_way"}


def test_in_training_its_references_are_noisy_and_not_given():
    plan, schedule = StepPlan(2, "reference_only"), NoiseSchedule.from_scheduler(tiny.scheduler())
    drawn = draws(plan)
    clean = torch.randn_like(drawn.noise)
    network = Answer(torch.zeros_like(clean))
    joint_loss(network, schedule, clean, EncodedText(torch.zeros(*clean.shape[:2], 1, 1)), drawn, plan)
    c = clean.shape[2]
    assert network.sample[:, :2, c].eq(1).all() and network.sample[:, :2, c + 1 :].eq(0).all()
    noisy = schedule.add_noise(clean, drawn.noise, drawn.timestep)
    assert close(network.sample[:, :, :c], noisy, 0)
    assert not ATTENTION_MODES.get("reference_only").cacheable
