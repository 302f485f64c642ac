"""What users of StableDiffusionPipeline do to a pipeline: LoRA, textual inversion, attention, offloading, from_pipe."""

import copy

import diffusers
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from jedi.errors import InputError
from jedi.pipeline import JediPipeline, image_generators
from jedi.unet import JointUNet
from tests import tiny
from tests.jedi.sampling import SHAPE, TEXT_LAYERS, UNET_LAYER, added, close, kohya, latents

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


@pytest.fixture
def own(parts) -> JediPipeline:
    """A pipeline with parts that a test may change."""
    pipe = JediPipeline(**copy.deepcopy(parts))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_lora_of_the_base_in_kohyas_form(own):
    plain, lora = latents(own), kohya()
    unet, text_encoder = copy.deepcopy(own.unet), copy.deepcopy(own.text_encoder)
    own.load_lora_weights(lora, adapter_name="style")
    styled = latents(own)
    assert not close(styled, plain, 1e-2)
    own.set_adapters("style", 0.0)
    assert close(latents(own), plain, 1e-5)
    own.set_adapters("style", 1.0)
    own.fuse_lora()
    assert close(latents(own), styled, 1e-3)
    own.unfuse_lora()
    own.unload_lora_weights()
    assert close(latents(own), plain, 1e-4)

    # by hand: the weights with the LoRA added
    with torch.no_grad():
        unet.get_submodule(ATTENTION).to_q.weight += added(lora, UNET_LAYER)
        attention = text_encoder.encoder.layers[0].self_attn
        for layer, name in zip((attention.q_proj, attention.out_proj), TEXT_LAYERS, strict=True):
            layer.weight += added(lora, name)
    own.unet, own.text_encoder = unet, text_encoder
    assert close(latents(own), styled, 1e-3)


def test_a_lora_of_the_base_on_conv_in(own):
    """It reads the c channels of the noisy latents; the mask and what is given are not its business."""
    lora = kohya(conv_in=True, text=0)
    by_hand = copy.deepcopy(own.unet)
    own.load_lora_weights(lora)
    with torch.no_grad():
        by_hand.get_submodule(ATTENTION).to_q.weight += added(lora, UNET_LAYER)
        by_hand.conv_in.weight[:, : SHAPE[0]] += added(lora, "lora_unet_conv_in")
    styled = latents(own)
    own.unet = by_hand
    assert close(latents(own), styled, 1e-3)


def test_a_lora_of_diffusers_form_saved_and_loaded(own, tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    plain = latents(own)
    own.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "conv_in"], init_lora_weights=False))
    styled = latents(own)
    own.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(own.unet))
    own.unet.delete_adapters("default")
    assert close(latents(own), plain, 0) and not close(plain, styled, 1e-3)
    own.load_lora_weights(tmp_path)
    assert close(latents(own), styled, 1e-5)


def test_textual_inversion(own):
    vectors = torch.randn(2, tiny.TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    own.load_textual_inversion({"<mine>": vectors})
    ids = own.tokenizer.convert_tokens_to_ids(["<mine>", "<mine>_1"])
    assert close(own.text_encoder.get_input_embeddings().weight[ids], vectors, 0)
    with torch.no_grad():
        tokens = own.tokenizer("a <mine> <mine>_1 cat", padding="max_length", return_tensors="pt").input_ids
        assert ids == tokens[0, 2:4].tolist()
        assert close(own.encode_prompt("a <mine> cat").embeds, own.text_encoder(tokens)[0], 1e-6)
    assert not close(latents(own, "a <mine> cat"), latents(own, "a cat"), 1e-4)


def test_what_would_take_joint_attention_off_is_refused(pipe):
    expected = latents(pipe)
    with pytest.raises(InputError, match="attention slicing does not go with joint attention"):
        pipe.enable_attention_slicing()
    with pytest.raises(InputError, match="fused projections do not go with joint attention"):
        pipe.fuse_qkv_projections()
    with pytest.raises(InputError, match="leave it out"):
        pipe.enable_xformers_memory_efficient_attention(attention_op=print)
    with pytest.raises(RuntimeError, match="'xformers' does not run on cpu"):
        pipe.enable_xformers_memory_efficient_attention()
    pipe.disable_attention_slicing()
    assert close(latents(pipe), expected, 0)
    pipe.unet.set_attention_slice("auto")  # past the pipeline: said at the next call
    with pytest.raises(InputError, match="SlicedAttnProcessor does not take `joint`"):
        latents(pipe)
    pipe.disable_xformers_memory_efficient_attention()
    assert close(latents(pipe), expected, 0)


def test_xformers_is_joint_attention_by_its_kernel(own, monkeypatch):
    seen = []
    monkeypatch.setattr("jedi.model.check_backend", lambda name, device: seen.append(name))
    monkeypatch.setattr(own.vae, "set_use_memory_efficient_attention_xformers", seen.append)
    own.enable_xformers_memory_efficient_attention()
    assert own.attention_backend == "xformers" and seen == ["xformers", True]


def test_the_vae_in_slices_and_tiles_and_freeu(own):
    run = lambda: own("a cat", num_inference_steps=1, output_type="pt", generator=image_generators(0, 2),
                      num_images_per_prompt=2).images  # fmt: skip
    plain = run()
    own.enable_vae_slicing()
    own.enable_vae_tiling()
    assert own.vae.use_slicing and own.vae.use_tiling
    assert close(run(), plain, 1e-5)
    own.disable_vae_slicing()
    own.disable_vae_tiling()
    before = latents(own)
    own.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert torch.isfinite(latents(own)).all() and close(latents(own), before, 10)
    own.disable_freeu()
    assert close(latents(own), before, 0)


def test_sequential_offloading_hooks_every_layer(own):
    """What accelerate does without an accelerator: with the CPU in its place it cannot run."""
    own.enable_sequential_cpu_offload(device="cpu")
    for layer in (own.unet.conv_in, own.vae.decoder.conv_in, own.text_encoder.final_layer_norm):
        assert layer.weight.is_meta and hasattr(layer, "_hf_hook")
    assert own._execution_device.type == "cpu"


def test_from_a_plain_pipeline_and_to_an_inpainting_one():
    parts = tiny.components()
    stock = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    before = copy.deepcopy(stock.unet.state_dict())
    assert JediPipeline.from_pipe(stock).config.trained_modes == ["reference_only"]
    pipe = JediPipeline.from_pipe(stock, trained_modes=["mutual"])
    assert pipe.unet.config.in_channels == 9 and stock.unet.config.in_channels == 4  # grown on a copy
    assert pipe.vae is stock.vae and pipe.text_encoder is stock.text_encoder
    assert all(torch.equal(x, before[name]) for name, x in stock.unet.state_dict().items())
    pipe.set_progress_bar_config(disable=True)
    made = latents(pipe)
    inpaint = StableDiffusionInpaintPipeline.from_pipe(pipe, safety_checker=None, feature_extractor=None)
    assert inpaint.unet is pipe.unet
    again = JediPipeline.from_pipe(inpaint)
    again.set_progress_bar_config(disable=True)
    assert again.unet is pipe.unet and again.config.trained_modes == ["mutual"]
    assert close(latents(again), made, 0)


def test_from_a_pipeline_in_half_precision():
    parts = tiny.components(in_channels=9)
    pipe = JediPipeline(**parts, trained_modes=["mutual"]).to(torch.bfloat16)
    other = JediPipeline.from_pipe(pipe, scheduler=diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config))
    assert other.dtype == torch.bfloat16 and other.config.trained_modes == ["mutual"]
    assert type(other.scheduler).__name__ == "EulerDiscreteScheduler" and other.unet is pipe.unet
    assert isinstance(other.joint_unet, JointUNet)


def test_xl_as_well():
    """from_pipe, clip_skip, and LoRAs of both text encoders in kohya's form, against StableDiffusionXLPipeline."""
    stock = StableDiffusionXLPipeline(**tiny.xl_components(), add_watermarker=False)
    ours = JediPipeline.from_pipe(stock, trained_modes=["one_way"])
    assert ours.text_encoder_2 is stock.text_encoder_2 and ours.config.force_zeros_for_empty_prompt
    ours.text_encoder, ours.text_encoder_2 = copy.deepcopy(stock.text_encoder), copy.deepcopy(stock.text_encoder_2)
    lora = {}
    for encoder, width in (("te1", 32), ("te2", 24)):
        lora |= {name.replace("_te_", f"_{encoder}_"): tensor for name, tensor in kohya(text=width).items()}
    options = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent", "negative_prompt": "red"}
    made = []
    for pipe in (stock, ours):
        pipe.set_progress_bar_config(disable=True)
        run = lambda pipe=pipe, **more: (
            pipe("a cat", height=32, width=32, generator=image_generators(0, 1), **options | more).images
        )
        plain = run(clip_skip=1)
        pipe.load_lora_weights(lora)
        second = run(prompt_2="a dog", negative_prompt_2="blue")
        made.append((plain, run(), run(cross_attention_kwargs={"scale": 0.3}), second))
        assert pipe.get_list_adapters() == {x: ["default_0"] for x in ("unet", "text_encoder", "text_encoder_2")}
    for wanted, found in zip(*made, strict=True):
        assert close(wanted, found, 1e-3)
    assert not close(made[0][1], made[0][2], 1e-2) and not close(made[0][1], made[0][3], 1e-2)
    with pytest.raises(InputError, match="prompt_2 must be as many strings as prompt is"):
        run(prompt_2=["a", "b"])
    ours.fuse_lora()
    ours.unload_lora_weights()
    assert close(run(), made[1][1], 1e-3)
