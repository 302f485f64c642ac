"""JediPipeline on random weights: against a sampler written out by hand, and against itself under changes."""

import copy
import logging
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image

from jedi.attention import ATTENTION_MODES, AttentionMode, JointAttnProcessor, attend_mutual
from jedi.captions import encode_captions
from jedi.conditioning import network_input
from jedi.errors import InputError
from jedi.guidance import GUIDANCE
from jedi.io import images
from jedi.pipeline import JediPipeline, image_generators
from jedi.schedulers import start
from jedi.text import EncodedText
from jedi.unet import JointUNet
from jedi.vae import decode_latents, encode_pixels
from tests import tiny
from tests.jedi.sampling import REFERENCES, SHAPE, STEPS, box_mask, close, latents, random_image


@torch.no_grad()
def by_hand(pipe, prompt, mode, rule, text_scale, image_guidance_scale, seed=0):
    """One image: every branch its own uncached call of the network, DDIM's formulas written out."""
    unet, c = JointUNet(pipe.unet), SHAPE[0]
    squares = [images.fit_square(x, tiny.PIXELS)[0] for x in REFERENCES]
    given = encode_pixels(pipe.vae, images.to_tensor(squares))[None]  # 1 k c h w
    k = given.shape[1]
    words = lambda text: encode_captions(pipe, [text])[None]
    empty, full = words(""), words(prompt)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 1, *SHAPE, generator=generator)
    fixed = torch.randn(1, k, *SHAPE, generator=generator)
    alphas = pipe.scheduler.alphas_cumprod
    gap = 1000 // STEPS
    for t in reversed([i * gap + 1 for i in range(STEPS)]):
        a, before = alphas[t], (alphas[t - gap] if t >= gap else alphas[0])
        noisy = given if mode == "one_way" else a.sqrt() * given + (1 - a).sqrt() * fixed
        references = network_input(noisy, torch.zeros(1, k, 1, *SHAPE[1:]), given)
        target = network_input(x, torch.ones(1, 1, 1, *SHAPE[1:]), torch.zeros_like(x))
        e = {}
        for name in GUIDANCE.get(rule).branches:
            text = full if name in ("full", "text") else empty
            if name in ("full", "refs"):
                sample = torch.cat([references, target], 1)
                text = EncodedText.cat([empty.expand(1, k), text], 1)
                e[name] = unet(sample, torch.tensor([t]), text, k, mode)[0, k:]
            else:
                e[name] = unet(target, torch.tensor([t]), text, 0, mode)[0]
        v = GUIDANCE.get(rule).combine(e, text_scale, image_guidance_scale)[None]
        x0, noise = a.sqrt() * x - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * x
        assert x0.shape[2] == c
        x = before.sqrt() * x0 + (1 - before).sqrt() * noise
    return x[0]


@pytest.mark.parametrize("mode", ["one_way", "mutual"])
@pytest.mark.parametrize("rule", ["two_branch", "plain", "three_branch", "three_branch_rescaled"])
def test_sampling_equals_the_formulas_written_out(pipe, mode, rule):
    scale = {"image_guidance_scale": 1.7} if "three" in rule else {}
    found = latents(pipe, "a red cat", mode=mode, guidance=rule, guidance_scale=2.5, **scale)
    assert close(found, by_hand(pipe, "a red cat", mode, rule, 2.5, 1.7))


def test_one_cache_serves_prompts_and_batches(pipe):
    cache = pipe.encode_references(REFERENCES, reference_prompts="a cat")
    before = {name: (k.clone(), v.clone()) for name, (k, v) in cache.layers.items()}
    for prompt, n in (("a cat", 1), (["a dog", "a bird on grass"], 4)):
        count = n // (1 if isinstance(prompt, str) else 2)
        direct = latents(pipe, prompt, n=n, num_images_per_prompt=count, reference_prompts="a cat")
        assert close(direct, latents(pipe, prompt, None, n=n, num_images_per_prompt=count, cache=cache), 1e-5)
    for name, (k, v) in cache.layers.items():
        assert torch.equal(k, before[name][0]) and torch.equal(v, before[name][1])


def attend_apart(query, key, value, k, kernel):
    """Each reference attends to itself, each target to itself and to all references."""
    n, first = key.shape[1], key.shape[1] - query.shape[1]
    out = []
    for i in range(first, n):
        seen = [i] if i < k else [*range(k), i]
        out.append(attend_mutual(query[:, i - first, None], key[:, seen], value[:, seen], k, kernel))
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("joint", [False, True])
def test_a_mode_of_an_extension_can_be_cached(parts, monkeypatch, joint):
    apart = AttentionMode(attend_apart, clean_references=True, cacheable=True)
    monkeypatch.setitem(ATTENTION_MODES._parts, "apart", apart)
    pipe = JediPipeline(**parts, trained_modes=["mutual", "apart"])
    options = {"n": 2, "joint": joint, "guidance": "three_branch", "image_guidance_scale": 2.0}
    cache = pipe.encode_references(REFERENCES)
    assert cache.mode == "apart"
    cached = latents(pipe, ["a cat", "a dog"], None, cache=cache, **options)
    assert close(cached, latents(pipe, ["a cat", "a dog"], mode="apart", **options), 1e-5)
    monkeypatch.setitem(ATTENTION_MODES._parts, "apart", replace(apart, cacheable=False))
    assert close(cached, latents(pipe, ["a cat", "a dog"], mode="apart", **options), 1e-4)  # computed at every step
    assert not close(cached, latents(pipe, ["a cat", "a dog"], mode="mutual", **options), 1e-3)
    with pytest.raises(
        InputError, match=r"cannot be cached in mode mutual, apart \(this model was trained in mutual, "
    ):
        pipe.encode_references(REFERENCES)
    with pytest.raises(InputError, match="cannot be cached in mode mutual "):
        pipe.encode_references(REFERENCES, mode="mutual")
    with pytest.raises(InputError, match="fixes mode 'apart'"):
        latents(pipe, ["a cat", "a dog"], None, cache=cache, mode="mutual", **options)


class CountingProcessor(JointAttnProcessor):
    calls = 0

    def __call__(self, *args, joint=None, **options):
        type(self).calls += 1
        return super().__call__(*args, joint=joint, **options)


def test_an_attention_processor_of_your_own_is_used(pipe):
    expected = latents(pipe)
    own = {x: CountingProcessor(x.removesuffix(".processor")) for x in pipe.unet.attn_processors}
    pipe.unet.set_attn_processor(dict(own))
    CountingProcessor.calls = 0
    assert close(latents(pipe), expected, 0) and CountingProcessor.calls >= STEPS * len(own)
    assert pipe.unet.attn_processors == own
    pipe.set_attention_backend("matmul")  # asks for ours
    assert not set(pipe.unet.attn_processors.values()) & set(own.values())
    assert close(latents(pipe), expected, 1e-5)


def test_an_attention_processor_that_does_not_couple_is_refused(pipe):
    expected, ours = latents(pipe), pipe.unet.attn_processors
    assert close(latents(pipe), expected, 0) and pipe.unet.attn_processors == ours  # installed once
    pipe.unet.set_attn_processor(AttnProcessor2_0())
    for call in (latents, lambda pipe: pipe.encode_references(REFERENCES)):
        with pytest.raises(InputError, match="AttnProcessor2_0 does not take `joint`.*set_attention_backend"):
            call(pipe)
    pipe.set_attention_backend("sdpa")
    assert close(latents(pipe), expected, 0)


def test_another_unet_may_be_assigned(pipe):
    expected = latents(pipe)
    pipe.unet = copy.deepcopy(pipe.unet)
    pipe.unet.set_attn_processor(AttnProcessor2_0())
    assert close(latents(pipe), expected, 0)


def test_references_are_encoded_once(pipe, monkeypatch):
    calls = []
    original = JointUNet.encode_references
    monkeypatch.setattr(JointUNet, "encode_references", lambda *a: calls.append(1) or original(*a))
    latents(pipe, ["a cat", "a dog"], n=4, num_images_per_prompt=2)
    assert len(calls) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler"])
@pytest.mark.parametrize("mode", ["one_way", "mutual"])
def test_an_image_is_the_same_alone_and_in_a_batch(pipe, mode, scheduler):
    """Property 5 of docs/method.md §8, with schedulers that draw noise in every step too."""
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    batch = latents(pipe, ["a cat", "a dog"], n=4, num_images_per_prompt=2, mode=mode)
    for i, prompt in enumerate(["a cat", "a cat", "a dog", "a dog"]):
        assert close(batch[i : i + 1], latents(pipe, prompt, seed=i, mode=mode)), i
    assert not close(batch[0], batch[1], 1e-2)


@pytest.mark.parametrize("mode", ["one_way", "mutual"])
def test_a_story_is_the_same_alone_and_in_a_batch(pipe, mode):
    prompts = ["a cat", "a dog", "a bird"]
    both = latents(pipe, prompts, n=6, num_images_per_prompt=2, joint=True, mode=mode)
    assert close(both[3:], latents(pipe, prompts, n=3, seed=3, joint=True, mode=mode))


@pytest.mark.parametrize("references", [REFERENCES, None])
def test_images_of_a_story_see_one_another(pipe, references):
    prompts = ["a cat", "a dog"]
    single, story = (latents(pipe, prompts, references, n=2, joint=x) for x in (False, True))
    assert not close(single, story, 1e-3)
    turned = latents(pipe, prompts[::-1], references, joint=True, generator=image_generators(0, 2)[::-1])
    assert close(turned.flip(0), story)  # property 2: targets are unordered


@pytest.mark.parametrize("mode", ["one_way", "mutual"])
def test_references_count_and_their_order_does_not(pipe, mode):
    with_both = latents(pipe, mode=mode)
    assert not close(with_both, latents(pipe, references=REFERENCES[:1], mode=mode), 1e-3)
    assert not close(with_both, latents(pipe, references=None, mode=mode), 1e-3)
    if mode == "one_way":  # in `mutual` each reference has its own fixed noise
        assert close(with_both, latents(pipe, references=REFERENCES[::-1], mode=mode))


def test_reference_prompts(pipe):
    default = latents(pipe)
    assert close(default, latents(pipe, reference_prompts=["", ""]), 0)
    assert close(default, latents(pipe, reference_prompts=""), 0)
    one, other = (latents(pipe, reference_prompts=x) for x in ("a cat", ["a cat", "a dog"]))
    assert not close(default, one, 1e-4) and not close(one, other, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("joint", [False, True])
def test_a_negative_prompt_stands_for_the_empty_caption(pipe, joint):
    prompts = ["a cat", "a dog"]
    options = {"guidance": "three_branch", "guidance_scale": 3.0, "image_guidance_scale": 2.0, "joint": joint}
    sample = lambda **more: latents(pipe, prompts, n=4, num_images_per_prompt=2, **options | more)
    default, red = sample(), sample(negative_prompt="red")
    assert close(default, sample(negative_prompt=""), 0) and not close(default, red, 1e-3)
    assert close(red, sample(negative_prompt=["red", "red"]), 1e-5)
    mixed = sample(negative_prompt=["", "red"])
    if not joint:  # each prompt has its own
        assert close(mixed[:2], default[:2]) and close(mixed[2:], red[2:])
    assert not close(mixed, red, 1e-3) and not close(mixed, default, 1e-3)
    off = [sample(negative_prompt=x, guidance_scale=1.0, image_guidance_scale=1.0) for x in (None, "red")]
    assert close(*off, 0)  # without guidance it has no effect


@torch.no_grad()
def test_a_negative_prompt_enters_the_branches_without_the_prompt(pipe, monkeypatch):
    seen = []
    forward = JointUNet.forward
    spy = lambda self, sample, t, text, *a, **k: seen.append(text) or forward(self, sample, t, text, *a, **k)
    monkeypatch.setattr(JointUNet, "forward", spy)
    options = {"guidance": "three_branch", "guidance_scale": 3.0, "image_guidance_scale": 2.0}
    latents(pipe, "a cat", negative_prompt="red", num_inference_steps=1, **options)
    red, cat = pipe.encode_prompt("red").embeds, pipe.encode_prompt("a cat").embeds
    without, with_references = (x.embeds[:, -1] for x in seen)  # e(0,0); e(refs,0) with e(refs,text)
    assert close(without, red, 1e-6) and close(with_references, torch.cat([red, cat]), 1e-5)


@pytest.mark.parametrize("joint", [False, True])
def test_embeddings_stand_for_prompts(pipe, joint, monkeypatch):
    prompts, options = ["a cat", "a dog"], {"n": 4, "num_images_per_prompt": 2, "joint": joint}
    cache = pipe.encode_references(REFERENCES)
    by_text = latents(pipe, prompts, None, cache=cache, negative_prompt="red", **options)
    embeds = {"prompt_embeds": pipe.encode_prompt(prompts).embeds}
    embeds["negative_prompt_embeds"] = pipe.encode_prompt("red").embeds
    assert [x.shape for x in embeds.values()] == [(n, tiny.TEXT_LENGTH, tiny.TEXT_WIDTH) for n in (2, 1)]
    monkeypatch.setattr("jedi.model.encode_captions", None)  # the text encoder is not called
    assert close(by_text, latents(pipe, None, None, cache=cache, **embeds, **options), 0)
    twice = {name: torch.cat([x, x], 1) for name, x in embeds.items()}  # attention to all tokens twice is the same
    assert close(by_text, latents(pipe, None, None, cache=cache, **twice, **options), 1e-4)


def test_what_a_reference_mask_hides_does_not_count(pipe):
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    changed = REFERENCES[1].copy()
    changed.paste("green", (0, 0, 32, 6))
    results = [latents(pipe, references=[x], reference_masks=[mask]) for x in (REFERENCES[1], changed)]
    assert close(*results, 0)
    assert not close(results[0], latents(pipe, references=[REFERENCES[1]], reference_masks=[None]), 1e-3)


@pytest.mark.parametrize("form", ["RGBA", "L", "CMYK", "P"])
def test_references_of_any_mode_and_aspect(pipe, form):
    assert torch.isfinite(latents(pipe, references=[random_image(3, (90, 7)).convert(form)])).all()


def test_initial_noise_can_be_given(pipe):
    noise = torch.cat([torch.randn(1, *SHAPE, generator=g) for g in image_generators(5, 2)])
    drawn = latents(pipe, n=2, num_images_per_prompt=2, seed=5)
    assert close(drawn, latents(pipe, num_images_per_prompt=2, generator=None, latents=noise), 0)
    assert close(drawn, latents(pipe, num_images_per_prompt=2, generator=image_generators(5, 2)), 0)
    single = latents(pipe, num_images_per_prompt=2, generator=torch.Generator().manual_seed(5))
    assert close(single[:1], drawn[:1], 1e-4) and not close(single[1:], drawn[1:], 1e-2)


def test_settings_come_from_the_arguments_then_the_model_then_us(parts):
    own = {"num_inference_steps": 2, "guidance": "plain", "guidance_scale": 7.0}
    pipe = JediPipeline(**parts, sampling_defaults=own)
    assert pipe.sampling_settings() == own | {"image_guidance_scale": 1.0}  # `plain` has no use for it
    assert pipe.sampling_settings(**pipe.sampling_settings()) == pipe.sampling_settings()
    assert pipe.sampling_settings(image_guidance_scale=1)["guidance"] == "plain"
    assert pipe.sampling_settings(guidance_scale=2)["guidance_scale"] == 2
    assert pipe.sampling_settings(image_guidance_scale=2)["guidance"] == "three_branch"
    assert pipe.sampling_settings(guidance="two_branch")["guidance"] == "two_branch"
    with pytest.raises(ValueError, match="does not use image_guidance_scale"):
        pipe.sampling_settings(guidance="plain", image_guidance_scale=2)
    with pytest.raises(ValueError, match="sampling_defaults"):
        JediPipeline(**parts, sampling_defaults={"guidance_sale": 1})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", ["one_way", "mutual"])
@pytest.mark.parametrize("edit", [False, True])
def test_euler_takes_the_steps_of_ddim(pipe, mode, edit):
    """Both solve one equation by one rule, in other scales: whoever scales the wrong slot fails here."""
    options = {"mode": mode, "n": 2, "num_images_per_prompt": 2, "num_inference_steps": 5}
    if edit:
        options |= {"image": random_image(7), "mask_image": box_mask((32, 32), (0, 0, 16, 32))}
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True)
    ddim = latents(pipe, **options)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="leading", steps_offset=1
    )
    assert float(pipe.scheduler.init_noise_sigma) > 2
    assert close(ddim, latents(pipe, **options), 1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        "DDPM", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "HeunDiscrete", "PNDM",
        "DEISMultistep", "EulerAncestralDiscrete",
    ],
)  # fmt: skip
def test_any_scheduler_that_fits(pipe, name):
    pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipe.scheduler.config)
    edit = {"mode": "mutual", "image": random_image(7), "mask_image": box_mask((32, 32), (0, 0, 16, 32))}
    for options in ({}, edit):
        options = options | {"num_inference_steps": 4 if name == "PNDM" else 2}  # PNDM begins with four
        first, second = (latents(pipe, **options) for _ in range(2))
        assert torch.isfinite(first).all() and first.abs().max() < 100
        assert close(first, second, 0)  # no state is left over


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"])
def test_schedulers_that_go_between_their_noise_levels(pipe, name):
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    assert torch.isfinite(latents(pipe)).all()
    edit = {"image": random_image(7), "mask_image": box_mask((32, 32), (0, 0, 16, 32))}
    for options in (edit, {"mode": "mutual"}):
        with pytest.raises(ValueError, match=f"{name} cannot be used (for an edit|in mode 'mutual')"):
            latents(pipe, **options)


def test_given_pixels_follow_the_step_not_the_timestep(pipe):
    """Steps may share a rounded timestep at different noise levels."""
    kind = diffusers.DPMSolverMultistepScheduler
    pipe.scheduler = kind.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    timesteps = start(pipe.scheduler, 100)
    assert len(timesteps.unique()) < 100
    x, sigmas = torch.zeros(1, *SHAPE), pipe.scheduler.sigmas
    for i, t in enumerate(timesteps):
        noisy = pipe.scheduler.add_noise(torch.zeros_like(x), torch.ones_like(x), t[None])
        assert close(noisy[0, 0, 0, 0], sigmas[i] / (1 + sigmas[i] ** 2) ** 0.5, 1e-5)
        x = pipe.scheduler.step(torch.zeros_like(x), t, x, return_dict=False)[0]


@pytest.mark.parametrize("kind", ["epsilon", "sample"])
def test_prediction_types(parts, kind):
    scheduler = diffusers.DDIMScheduler.from_config(parts["scheduler"].config, prediction_type=kind)
    pipe = JediPipeline(**parts | {"scheduler": scheduler})
    pipe.set_progress_bar_config(disable=True)
    assert pipe.config.prediction_type == kind
    assert torch.isfinite(latents(pipe)).all()


def test_output_types_agree(pipe):
    run = lambda kind: (
        pipe(
            "a cat", num_images_per_prompt=2, num_inference_steps=2, output_type=kind, generator=image_generators(0, 2)
        ).images
    )
    pil, array, tensor, latent = (run(kind) for kind in ("pil", "np", "pt", "latent"))
    assert [x.size for x in pil] == [(32, 32)] * 2 and array.shape == (2, 32, 32, 3)
    assert tensor.shape == (2, 3, 32, 32) and latent.shape == (2, *SHAPE)
    np.testing.assert_allclose(array, tensor.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(np.asarray(pil[1]), (array[1] * 255).round().astype(np.uint8))
    with torch.no_grad():
        decoded = decode_latents(pipe.vae, latent).clamp(-1, 1) / 2 + 0.5
    assert close(decoded, tensor, 1e-5)
    output = pipe("a cat", num_inference_steps=1, return_dict=False)
    assert isinstance(output, tuple) and isinstance(output[0][0], Image.Image)


def test_callbacks_see_change_and_stop(pipe):
    seen = []

    def look(pipe, i, t, tensors):
        seen.append((i, int(t), tensors["latents"].shape))

    latents(pipe, callback_on_step_end=look)
    assert seen == [(i, int(t), (1, *SHAPE)) for i, t in enumerate(pipe.scheduler.timesteps)]
    assert pipe.num_timesteps == STEPS

    blank = latents(pipe, callback_on_step_end=lambda p, i, t, x: {"latents": torch.zeros_like(x["latents"])})
    assert not blank.any()

    def stop(pipe, i, t, tensors):
        pipe._interrupt = True
        return {"latents": torch.full_like(tensors["latents"], 7.0)}

    assert (latents(pipe, callback_on_step_end=stop) == 7).all()
    assert torch.isfinite(latents(pipe)).all() and not pipe.interrupt  # the next call starts anew


def test_the_progress_bar_counts_steps(pipe, capsys):
    pipe.set_progress_bar_config(disable=False)
    latents(pipe)
    assert f"{STEPS}/{STEPS}" in capsys.readouterr().err


@pytest.mark.slow
def test_saving_and_loading(pipe, tmp_path):
    pipe.register_to_config(sampling_defaults={"num_inference_steps": 2, "guidance_scale": 3.0})
    pipe.save_pretrained(tmp_path)
    assert {x.suffix for x in tmp_path.rglob("*") if x.is_file()} <= {".json", ".safetensors", ".txt"}
    loaded = JediPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.trained_modes == ["one_way", "mutual"] and loaded.config.max_trained_references == 3
    assert loaded.config.prediction_type == "v_prediction"
    assert loaded.sampling_settings() == pipe.sampling_settings()
    for mode in ("one_way", "mutual"):
        assert close(latents(pipe, mode=mode), latents(loaded, mode=mode), 0)
    stock = diffusers.UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    for name, value in stock.state_dict().items():
        assert torch.equal(value, pipe.unet.state_dict()[name])


def test_half_precision(parts):
    pipe = JediPipeline(**copy.deepcopy(parts), trained_modes=["one_way", "mutual"]).to(torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    cache = pipe.encode_references(REFERENCES)
    assert {x.dtype for pair in cache.layers.values() for x in pair} == {torch.bfloat16}
    assert torch.isfinite(latents(pipe, references=None, cache=cache, num_inference_steps=1)).all()
    edit = {"image": random_image(7), "mask_image": box_mask((32, 32), (0, 0, 9, 9))}
    assert torch.isfinite(latents(pipe, mode="mutual", num_inference_steps=1, **edit)).all()


@pytest.mark.slow
def test_offloading(parts):
    """With the CPU as the device to move parts to: the hooks run all the same."""
    pytest.importorskip("accelerate")
    pipe = JediPipeline(**copy.deepcopy(parts), trained_modes=["one_way", "mutual"])
    pipe.set_progress_bar_config(disable=True)
    before = {mode: latents(pipe, mode=mode) for mode in ("one_way", "mutual")}
    pipe.enable_model_cpu_offload(device="cpu")
    edit = {"image": random_image(7), "mask_image": box_mask((32, 32), (0, 0, 9, 9))}
    for mode, expected in before.items():
        assert close(latents(pipe, mode=mode), expected, 0)
        assert pipe("a cat", REFERENCES, mode=mode, num_inference_steps=1, **edit).images[0].size == (32, 32)
    cached = latents(pipe, references=None, cache=pipe.encode_references(REFERENCES))
    assert close(cached, before["one_way"], 0)


def test_parts(pipe):
    xl = {"text_encoder_2", "tokenizer_2"}
    assert {name for name, part in pipe.components.items() if part is not None} == set(pipe.components) - xl
    assert set(pipe.components) - xl == {"vae", "text_encoder", "tokenizer", "unet", "scheduler"}
    modules = {name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    assert modules == set(pipe.model_cpu_offload_seq.split("->")) - xl


def test_a_model_does_what_it_was_trained_for(parts, caplog):
    pipe = JediPipeline(**parts, trained_modes=["mutual"], max_trained_references=1)
    pipe.set_progress_bar_config(disable=True)
    assert close(latents(pipe, num_inference_steps=1), latents(pipe, num_inference_steps=1, mode="mutual"), 0)
    for call in (lambda: pipe("a cat", mode="one_way"), lambda: pipe.encode_references(REFERENCES)):
        with pytest.raises(ValueError, match="trained in mutual"):
            call()
    with caplog.at_level(logging.WARNING, "jedi"):
        latents(pipe, "a " * 40, num_inference_steps=1)
        encode_captions(pipe, ["b" * 9000, "a " * 40])
    assert "2 references; this model was trained with at most 1" in caplog.text
    assert f"cut to {tiny.TEXT_LENGTH} tokens, captions: 1 ('a a " in caplog.text
    assert f"cut to {tiny.TEXT_LENGTH} tokens, captions: 2 ('bbb" in caplog.text
    assert all(len(record.message) < 200 for record in caplog.records)  # not the captions of a whole data set


def test_parts_that_do_not_fit_are_refused(parts):
    with pytest.raises(ValueError, match=r"2c \+ 1 = 9.*from_base"):
        JediPipeline(**parts | {"unet": tiny.unet(4)})
    for modes in ([], ["one_way", "three_way"]):
        with pytest.raises(ValueError, match="trained_modes"):
            JediPipeline(**parts, trained_modes=modes)
