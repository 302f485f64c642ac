"""SD-XL: two text encoders, pooled text and sizes; everything else is as for the other models."""

import copy
import shutil

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

import train
from jedi import JediPipeline
from jedi.errors import InputError
from jedi.evaluation.baselines import UntrainedCoupling
from jedi.io.base import load_base
from jedi.io.files import read_own_json, write_json
from jedi.pipeline import image_generators
from jedi.shards import origins_of
from jedi.text import EncodedText
from jedi.training.load_run import load_run
from tests import tiny
from tests.jedi.sampling import REFERENCES, STEPS, close, latents
from tests.test_train import assert_equal, state, write_recipe


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder as SD-XL's comes."""
    return tiny.save_base(tiny.xl_components(), tmp_path_factory.mktemp("xl") / "base", "StableDiffusionXLPipeline")


@pytest.fixture(scope="module")
def model(base):
    """Every input channel counts, as after training."""
    parts = {name: copy.deepcopy(part) for name, part in tiny.xl_components(in_channels=9).items()}
    return JediPipeline(**parts, trained_modes=["one_way", "mutual"], force_zeros_for_empty_prompt=True)


def stock(base, **changes):
    """diffusers' own pipeline."""
    pipe = StableDiffusionXLPipeline.from_pretrained(base, add_watermarker=False, **changes)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ours(base, **given):
    """Of the same base, its UNet grown."""
    from jedi.unet import JointUNet

    parts = load_base(base)
    JointUNet.from_base(parts.unet)
    return JediPipeline.from_pretrained(base, unet=parts.unet, trained_modes=["one_way"], **given)


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("negative", [None, "red"])
def test_one_image_without_references_is_the_stock_pipelines(base, tmp_path, zeros, negative):
    folder = shutil.copytree(base, tmp_path / "base")
    index = read_own_json(folder / "model_index.json")
    write_json(folder / "model_index.json", index | {"force_zeros_for_empty_prompt": zeros})
    options = {
        "num_inference_steps": STEPS,
        "guidance_scale": 4.0,
        "output_type": "latent",
        "negative_prompt": negative,
    }
    wanted = stock(folder)("a cat", height=32, width=32, generator=image_generators(0, 1), **options).images
    found = ours(folder)("a cat", generator=image_generators(0, 1), guidance="two_branch", **options).images
    assert close(found, wanted, 1e-5)


@pytest.mark.parametrize("fine_tune", [{}, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}])
def test_with_the_scheduler_of_its_own_and_of_fine_tunes(base, tmp_path, fine_tune):
    """SD-XL's is Euler's; fine-tunes predict v with a zero terminal SNR."""
    folder = shutil.copytree(base, tmp_path / "base")
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "leading"}
    scheduler = EulerDiscreteScheduler(**betas, steps_offset=1, **fine_tune)
    scheduler.save_pretrained(folder / "scheduler")
    index = read_own_json(folder / "model_index.json")
    write_json(folder / "model_index.json", index | {"scheduler": ["diffusers", "EulerDiscreteScheduler"]})
    options = {"num_inference_steps": STEPS, "guidance_scale": 4.0, "output_type": "latent"}
    wanted = stock(folder)("a cat", height=32, width=32, generator=image_generators(0, 1), **options).images
    pipe = ours(folder)
    found = pipe("a cat", generator=image_generators(0, 1), guidance="two_branch", **options).images
    assert close(found, wanted, 1e-4 * float(wanted.abs().max()))
    shown = pipe("a cat", REFERENCES, generator=image_generators(0, 1), guidance="two_branch", **options).images
    assert torch.isfinite(shown).all() and not close(shown, found, 1e-3)


def test_sizes_pooled_text_and_references_count(model):
    plain, n = latents(model), image_generators
    assert not close(plain, latents(model, references=None), 1e-3)
    text, empty = model.encode_prompt("a cat"), model.encode_prompt("")
    assert not text.embeds.eq(0).all() and empty.embeds.eq(0).all() and empty.pooled.eq(0).all()
    embeds = {"prompt_embeds": text.embeds, "pooled_prompt_embeds": text.pooled}
    assert close(plain, latents(model, None, generator=n(0, 1), **embeds), 0)
    other = embeds | {"pooled_prompt_embeds": text.pooled + 1}
    assert not close(plain, latents(model, None, **other), 1e-4)
    for wrong, message in (
        ({"prompt_embeds": text.embeds}, r"pooled_prompt_embeds must be \[p e\] = \[1, 24\].*got nothing"),
        ({"prompt_embeds": text.embeds, "pooled_prompt_embeds": text.pooled[:, 1:]}, r"got \[1, 23\]"),
        ({"prompt": "a cat", "pooled_prompt_embeds": text.pooled}, "give the prompts' embeds too"),
    ):
        with pytest.raises(InputError, match=message):
            model(references=REFERENCES, **wrong)


def test_each_member_is_told_where_it_came_from():
    images = [{}, {"original_size": [90, 60], "crop_top_left": [7, 0]}]
    origins = torch.tensor(origins_of({"images": images}, [1, 0], 32, 64))
    assert origins.tolist() == [[90, 60, 7, 0], [32, 64, 0, 0]]
    assert origins_of({}, [3], 90, 60) == [[90, 60, 0, 0]]
    text = EncodedText(torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 6))
    assert text.sized(32, 64, origins[None]).time_ids.tolist() == [[[90, 60, 7, 0, 32, 64], [32, 64, 0, 0, 32, 64]]]
    assert text.sized(32, 64).time_ids.tolist() == [[[32, 64, 0, 0, 32, 64]] * 2]
    assert EncodedText(torch.zeros(1, 2, 5, 8)).sized(32, 64).time_ids is None


def test_the_cache_gives_what_the_references_give(model):
    cache = model.encode_references(REFERENCES)
    prompts = ["a cat", "a dog"]
    given = latents(model, prompts, n=2, guidance="three_branch", image_guidance_scale=2.0)
    options = {"n": 2, "guidance": "three_branch", "image_guidance_scale": 2.0}
    assert close(given, latents(model, prompts, None, cache=cache, **options), 0)
    assert torch.isfinite(latents(model, mode="mutual")).all()


def test_saved_it_is_found_again_with_its_second_encoder(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = JediPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert again.force_zeros_for_empty_prompt
    assert close(latents(model), latents(again), 0)


def test_parts_that_do_not_fit(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(InputError, match="has no text_encoder_2"):
        load_base(folder)
    parts = tiny.xl_components()
    config = dict(parts["unet"].config) | {"projection_class_embeddings_input_dim": 5 * 8 + 24}
    refiner = UNet2DConditionModel.from_config(config)
    folder = tiny.save_base(parts | {"unet": refiner}, tmp_path / "refiner", "StableDiffusionXLPipeline")
    with pytest.raises(InputError, match="pooled text of width 16, the text_encoder_2 gives 24"):
        load_base(folder)
    folder = tiny.save_base(parts | {"unet": tiny.unet()}, tmp_path / "unet", "StableDiffusionXLPipeline")
    with pytest.raises(InputError, match="the unet takes no pooled text and sizes, for text_encoder and"):
        load_base(folder)


@pytest.mark.slow
def test_it_trains_and_resumes(base, shards, tmp_path):
    def run(*overrides):
        recipe = write_recipe(tmp_path, base, shards)
        assert train.main(["--config", str(recipe), *overrides]) == 0

    run("max_steps=2", f"out={tmp_path / 'parts'}")
    run("max_steps=3", f"out={tmp_path / 'parts'}")
    run(
        "max_steps=3",
        f"out={tmp_path / 'whole'}",
        "validation.every_steps=3",
        "validation.sets=2",
        "samples.every_steps=3",
    )
    assert_equal(state(tmp_path / "parts"), state(tmp_path / "whole"))
    pipe = load_run(tmp_path / "whole")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.force_zeros_for_empty_prompt and torch.isfinite(latents(pipe)).all()


def test_the_baseline_of_untrained_coupling_reads_captions_as_the_model(model):
    baseline = UntrainedCoupling.of(model)
    assert baseline.parameters == model.parameters and baseline.encode_prompt("").embeds.eq(0).all()
