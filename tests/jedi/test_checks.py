"""jedi.checks: senseless requests of a pipeline are named."""

import diffusers
import pytest
import torch
from PIL import Image

from jedi.errors import InputError
from jedi.pipeline import image_generators
from tests.jedi.sampling import REFERENCES, latents, random_image


def test_schedulers_that_do_not_fit_are_refused(pipe):
    config = pipe.scheduler.config
    pipe.scheduler = diffusers.DDIMScheduler.from_config(config, prediction_type="epsilon")
    with pytest.raises(ValueError, match="trained with 'v_prediction'"):
        latents(pipe)
    for scheduler in (diffusers.FlowMatchEulerDiscreteScheduler(), diffusers.EDMEulerScheduler()):
        pipe.scheduler = scheduler
        with pytest.raises(ValueError, match=f"{type(scheduler).__name__} is not a discrete-time"):
            latents(pipe)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "prompt must be"),
        ({"prompt": ["a", 1]}, "prompt must be"),
        ({"prompt": None}, "prompt must be"),
        ({"prompt_embeds": torch.zeros(1, 16, 32)}, "prompt and prompt_embeds exclude one another"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 16, 5)}, r"prompt_embeds must be .* = \[p, 16, 32\], got"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 20, 32)}, "prompt has 20 and negative_prompt has 16 tokens"),
        (
            {
                "prompt": None,
                **dict.fromkeys(("prompt_embeds", "negative_prompt_embeds"), torch.zeros(1, 20, 32)),
                "references": REFERENCES,
                "mode": "mutual",
            },
            "prompt_embeds has 20 tokens; beside references in mode 'mutual' it must have 16",
        ),
        ({"prompt": None, "prompt_embeds": torch.zeros(16, 32)}, "prompt_embeds must be"),
        ({"negative_prompt": 3}, "negative_prompt must be"),
        ({"negative_prompt": []}, "negative_prompt must be"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt: 2 given for 1 prompts"),
        ({"negative_prompt_embeds": torch.zeros(2, 16, 32)}, "negative_prompt: 2 given for 1 prompts"),
        ({"negative_prompt": "a", "negative_prompt_embeds": torch.zeros(1, 16, 32)}, "exclude one another"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be"),
        ({"num_images_per_prompt": 1.5}, "num_images_per_prompt must be"),
        ({"num_inference_steps": 0}, "num_inference_steps must be"),
        ({"timesteps": [9, 1], "sigmas": [9.0, 1.0]}, "timesteps and sigmas exclude one another"),
        ({"timesteps": [9, 1]}, "DDIMScheduler takes no timesteps of one's own; EulerDiscreteScheduler does"),
        ({"prompt_2": "a dog"}, "prompt_2 is for SD-XL's second text encoder, which this model has not"),
        ({"eta": 2}, "eta must be a number from 0 to 1, got 2"),
        ({"guidance_rescale": -1}, "guidance_rescale must be a number from 0 to 1"),
        ({"clip_skip": 2}, "clip_skip must be a whole number from 0 to 1"),
        ({"cross_attention_kwargs": {"scale": "x"}}, "scale must be a number, got 'x'"),
        ({"strength": 0.5}, "strength is for an edit"),
        ({"padding_mask_crop": 4}, "padding_mask_crop is for an edit"),
        (
            {
                "image": random_image(1),
                "mask_image": Image.new("L", (32, 32), 255),
                "strength": 0.1,
                "num_inference_steps": 5,
            },
            "strength 0.1 of 5 steps leaves none",
        ),
        ({"height": 30}, "height 30: the model makes multiples of 4; the nearest: 28 and 32"),
        ({"width": 3}, "width 3: the model makes multiples of 4; the nearest: 4$"),
        ({"width": 0}, "width must be a whole number of pixels, got 0"),
        ({"reference_resize": "fill"}, "reference_resize 'fill': known are pad, crop, keep"),
        ({"reference_resize": "keep", "mode": "mutual"}, "'keep' does not go with mode 'mutual'"),
        ({"references": REFERENCES, "reference_resize": "keep"}, r"several sizes \(48 x 20, 32 x 32 pixels\)"),
        ({"num_inference_steps": 2.0}, "num_inference_steps must be"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be"),
        ({"guidance_scale": -1}, "guidance_scale must be"),
        ({"image_guidance_scale": float("inf")}, "image_guidance_scale must be"),
        ({"guidance": "tree_branch"}, "did you mean 'three_branch'"),
        ({"guidance_interval": (0.8, 0.2)}, "guidance_interval must be"),
        ({"image_guidance_interval": (0.0, 2.0)}, "image_guidance_interval must be"),
        ({"mode": "both"}, "trained in one_way, mutual"),
        ({"references": random_image(1)}, "must be a list of PIL"),
        ({"references": ["a.png"]}, "must be a list of PIL"),
        ({"references": REFERENCES, "reference_prompts": ["a"]}, "1 given for 2"),
        ({"references": REFERENCES, "reference_masks": [None] * 3}, "3 given for 2"),
        ({"references": REFERENCES[:1], "reference_masks": [Image.new("L", (2, 2))]}, "must agree"),
        ({"image": random_image(1)}, "go together"),
        ({"mask_image": Image.new("L", (2, 2))}, "go together"),
        ({"image": random_image(1), "mask_image": Image.new("L", (2, 2), 255)}, "must agree"),
        ({"image": random_image(1), "mask_image": Image.new("L", (32, 32))}, "mask_image is black"),
        ({"num_images_per_prompt": 2, "generator": image_generators(0, 3)}, "3 given for 2"),
        ({"latents": torch.zeros(1, 3, 8, 8)}, r"\[n c h w\]"),
        ({"output_type": "jpg"}, "output_type 'jpg'"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "known are"),
    ],
)
def test_senseless_arguments_are_named(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(**{"prompt": "a cat"} | options)


def test_a_cache_holds_the_references_of_all_sets_or_of_each(pipe):
    """One of two sets was taken for four images, which then had the references of the wrong ones."""
    two = pipe.encode_references(REFERENCES).repeat(2)
    assert len(latents(pipe, ["a cat", "a dog"], None, n=2, cache=two)) == 2
    assert len(latents(pipe, ["a cat", "a dog"], None, n=4, num_images_per_prompt=2, joint=True, cache=two)) == 4
    for options in ({"n": 4, "num_images_per_prompt": 2}, {"n": 2, "joint": True}):
        with pytest.raises(InputError, match=r"cache holds the references of 2 sets, [14] are made: it must hold 1 or"):
            latents(pipe, ["a cat", "a dog"], None, cache=two, **options)


def test_a_cache_stands_alone(pipe):
    cache = pipe.encode_references(REFERENCES)
    for options in ({"references": REFERENCES}, {"mode": "mutual"}, {"reference_prompts": "a"}):
        with pytest.raises(ValueError, match="cache replaces"):
            pipe("a cat", cache=cache, **options)
    with pytest.raises(ValueError, match="nothing to encode"):
        pipe.encode_references([])
