"""Without references, JediPipeline makes of a plain base what StableDiffusionPipeline does, by the same arguments."""

import copy
import inspect

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image

from jedi.io import images
from jedi.pipeline import JediPipeline, image_generators
from jedi.vae import decode_latents, encode_pixels
from tests import tiny
from tests.jedi.sampling import SHAPE, box_mask, close, kohya, random_image

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::FutureWarning")
EMPTY = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


@pytest.fixture(scope="module")
def base() -> dict:
    """Parts of a plain base. Read only."""
    return tiny.components(1)


@pytest.fixture
def both(base) -> tuple[StableDiffusionPipeline, JediPipeline]:
    """The stock pipeline and ours, of one base."""
    stock = StableDiffusionPipeline(**base, **EMPTY)
    ours = JediPipeline.from_pipe(stock, trained_modes=["one_way"])
    for pipe in (stock, ours):
        pipe.set_progress_bar_config(disable=True)
    return stock, ours


def run(pipe, prompt="a red cat", n=1, **options) -> torch.Tensor:
    """``[n c h w]``."""
    options = {"num_inference_steps": 4, "guidance_scale": 5.0, "generator": image_generators(3, n)} | options
    return pipe(prompt, output_type="latent", **options).images


SCHEDULERS = (
    "DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete",
    "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "LCM", "TCD",
    *(pytest.param(f"KDPM2{x}Discrete", marks=pytest.mark.slow) for x in ("", "Ancestral")),
)  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(both, name):
    made = []
    for pipe in both:
        pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(tiny.scheduler().config)
        made.append(run(pipe, negative_prompt="a blue dog"))
    assert close(*made, 1e-5) and torch.isfinite(made[0]).all()


@pytest.mark.parametrize(
    "options",
    [
        {"num_images_per_prompt": 2, "n": 2},
        {"prompt": ["a cat", "a dog"], "negative_prompt": ["red", "blue"], "n": 2},
        {"height": 24, "width": 40},
        {"guidance_scale": 1.0},
        {"guidance_rescale": 0.7},
        {"eta": 0.8},
        {"latents": torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(9))},
        {"prompt": None, "prompt_embeds": torch.randn(1, 16, 32), "negative_prompt_embeds": torch.randn(1, 16, 32)},
        {"prompt": None, "prompt_embeds": torch.randn(1, 40, 32), "negative_prompt_embeds": torch.randn(1, 40, 32)},
    ],
    ids=lambda options: "-".join(options),
)
def test_arguments(both, options):
    made = [run(pipe, **options) for pipe in both]
    assert close(*made, 1e-5)
    if len(options) == 1 and "height" not in options:
        assert not close(made[0], run(both[0]), 1e-3)  # it has an effect at all


@pytest.mark.parametrize("own", [{"timesteps": [900, 600, 400, 10]}, {"sigmas": [9.0, 3.0, 0.5]}])
def test_steps_of_ones_own(both, own):
    for pipe in both:
        pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(tiny.scheduler().config)
    made = [run(pipe, **own) for pipe in both]
    assert close(*made, 1e-5) and both[1].num_timesteps == both[0].num_timesteps


def test_callbacks_see_and_change_the_prompts(both):
    names, seen = ["latents", "prompt_embeds", "negative_prompt_embeds"], []

    def look(pipe, i, t, tensors):
        seen.append({name: tensors[name].shape for name in names})
        pipe._guidance_scale = 2.0  # diffusers' way to change it on the way
        return {"prompt_embeds": 0.5 * tensors["prompt_embeds"], "latents": tensors["latents"] * 0.9}

    made = [run(pipe, callback_on_step_end=look, callback_on_step_end_tensor_inputs=names) for pipe in both]
    text = (1, tiny.TEXT_LENGTH, tiny.TEXT_WIDTH)
    assert seen[-1] == {"latents": (1, *SHAPE), "prompt_embeds": text, "negative_prompt_embeds": text}

    def halve_both(pipe, i, t, tensors):  # the stock pipeline reads negative and positive in one
        return look(pipe, i, t, tensors) | {"negative_prompt_embeds": 0.5 * tensors["negative_prompt_embeds"]}

    changed = run(both[1], callback_on_step_end=halve_both, callback_on_step_end_tensor_inputs=names)
    assert close(made[0], changed, 1e-5) and not close(made[1], changed, 1e-4)


def test_a_callback_of_diffusers_form_says_what_it_sees(both):
    class Look(diffusers.callbacks.PipelineCallback):
        tensor_inputs = ("negative_prompt_embeds",)

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            assert set(callback_kwargs) == {"negative_prompt_embeds"}
            return callback_kwargs | {"latents": torch.zeros(1, *SHAPE)}

    assert not run(both[1], callback_on_step_end=Look()).any()


def test_clip_skip(both):
    stock, ours = both
    # diffusers 0.42 looks for `text_model`, which transformers 5 has no more.
    stock.text_encoder = copy.deepcopy(stock.text_encoder)
    stock.text_encoder.__dict__["text_model"] = stock.text_encoder
    made = [run(pipe, negative_prompt="a blue dog", clip_skip=1) for pipe in both]
    assert close(*made, 1e-5) and not close(made[1], run(ours, negative_prompt="a blue dog"), 1e-3)
    assert close(run(ours, clip_skip=0), run(ours), 1e-5)


def test_the_scale_of_loras(both):
    for pipe in both:
        pipe.unet, pipe.text_encoder = copy.deepcopy(pipe.unet), copy.deepcopy(pipe.text_encoder)
        pipe.load_lora_weights(kohya())
    half = {"cross_attention_kwargs": {"scale": 0.5}}
    made = [run(pipe, **half) for pipe in both]
    assert close(*made, 1e-4) and not close(made[1], run(both[1]), 1e-2)
    with pytest.raises(ValueError, match="cross_attention_kwargs has gligen; known here: scale"):
        run(both[1], cross_attention_kwargs={"gligen": 1})

    references = [random_image(1)]  # they are encoded with the same scale
    cache = both[1].encode_references(references, **half)
    assert close(run(both[1], cache=cache, **half), run(both[1], references=references, **half), 0)
    assert not close(
        run(both[1], cache=both[1].encode_references(references), **half), run(both[1], cache=cache, **half)
    )


def test_a_vae_with_a_shift_factor(base):
    vae = copy.deepcopy(base["vae"])
    vae.register_to_config(shift_factor=0.7)
    stock = StableDiffusionPipeline(**base | {"vae": vae}, **EMPTY)
    ours = JediPipeline.from_pipe(stock, trained_modes=["one_way"])
    for pipe in (stock, ours):
        pipe.set_progress_bar_config(disable=True)
    made = [run(pipe) for pipe in (stock, ours)]
    assert close(*made, 1e-5)
    with torch.no_grad():  # what is read and what is written are shifted alike: training and sampling share it
        assert close(decode_latents(vae, made[0]), vae.decode(made[0] / 0.5 + 0.7).sample, 1e-6)
        pixels = images.to_tensor([random_image(1)])
        assert close(encode_pixels(vae, pixels), (vae.encode(pixels).latent_dist.mode() - 0.7) * 0.5, 1e-6)


@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete", "DPMSolverMultistep"])
def test_strength_of_an_edit(both, base, name):
    """An edit of the whole is image-to-image; one of a part is inpainting by a plain base, from the second step on."""
    _, ours = both
    ours.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(tiny.scheduler().config)
    image, options = random_image(7), {"strength": 0.6, "num_inference_steps": 5}
    with torch.no_grad():
        clean = encode_pixels(ours.vae, images.to_tensor([image]))

    stock = StableDiffusionImg2ImgPipeline(**base | {"scheduler": ours.scheduler}, **EMPTY)
    stock.set_progress_bar_config(disable=True)
    white = run(ours, image=image, mask_image=Image.new("L", (32, 32), 255), **options)
    assert close(white, run(stock, image=clean, **options), 1e-5)
    assert ours.num_timesteps == 3

    mask = box_mask((32, 32), (8, 8, 24, 20))
    stock = StableDiffusionInpaintPipeline(**base | {"scheduler": ours.scheduler}, **EMPTY)
    stock.set_progress_bar_config(disable=True)
    stock._encode_vae_image = lambda image, generator: clean  # the posterior's mode, as ours; the stock one draws
    made = run(stock, image=image, mask_image=mask, height=32, width=32, **options)
    assert close(run(ours, image=image, mask_image=mask, **options), made, 1e-4)


def test_an_edit_of_the_masks_surroundings(both):
    image, mask = random_image(7, (90, 60)), box_mask((90, 60), (50, 20, 60, 30))
    options = {"image": image, "mask_image": mask, "num_inference_steps": 2}
    made = both[1]("a cat", padding_mask_crop=4, generator=image_generators(0, 1), **options).images[0]
    assert made.size == image.size
    inside, before, after = (np.asarray(x).astype(int) for x in (mask, image, made))
    np.testing.assert_array_equal(after[inside == 0], before[inside == 0])
    assert abs(after[inside > 0] - before[inside > 0]).mean() > 10
    region = (46, 16, 64, 34)  # the mask and 4 pixels around it
    part = {"image": image.crop(region), "mask_image": mask.crop(region)}
    alone = both[1]("a cat", generator=image_generators(0, 1), **options | part).images[0]
    np.testing.assert_array_equal(np.asarray(made.crop(region)), np.asarray(alone))


def test_the_arguments_of_the_stock_pipeline_are_ours():
    stock, ours = (set(inspect.signature(x.__call__).parameters) for x in (StableDiffusionPipeline, JediPipeline))
    assert stock - ours == {"ip_adapter_image", "ip_adapter_image_embeds", "kwargs"}
