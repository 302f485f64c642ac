"""What a model is, is seen from its folder; what is not supported is called by its name, in one line."""

import json

import pytest

import sample
from jedi.errors import InputError
from jedi.io.base import load_base
from jedi.io.kinds import SUPPORTED, ModelKind, detect
from jedi.pipeline import JediPipeline

PARTS = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "PNDMScheduler"],
}
NONE = [None, None]
XL = {
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}
UNET = {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 768, "sample_size": 64}


@pytest.fixture
def folder(tmp_path):
    """Writes the JSON files of a model: of its index, of its UNet, of its scheduler."""

    def write(index, unet=(), scheduler=()):
        files = {
            "model_index.json": PARTS
            | {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.6.0"}
            | index,
            "unet/config.json": UNET | dict(unet),
            "scheduler/scheduler_config.json": {"num_train_timesteps": 1000} | dict(scheduler),
        }
        for name, values in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(json.dumps({k: v for k, v in values.items() if v != "absent"}))
        return tmp_path

    return write


INPAINT, V = {"in_channels": 9}, {"prediction_type": "v_prediction"}


@pytest.mark.parametrize(
    ("index", "unet", "scheduler", "kind"),
    [
        ({}, {}, {}, ModelKind("Stable Diffusion 1.x", False, "epsilon", 64, False)),
        ({"_class_name": "StableDiffusionInpaintPipeline"}, INPAINT, {},
         ModelKind("Stable Diffusion 1.x", True, "epsilon", 64, False)),
        ({}, {"cross_attention_dim": 1024}, {}, ModelKind("Stable Diffusion 2.x", False, "epsilon", 64, False)),
        ({}, {"cross_attention_dim": 1024, "sample_size": 96}, V,
         ModelKind("Stable Diffusion 2.x", False, "v_prediction", 96, False)),
        ({"_class_name": "StableDiffusionXLPipeline", **XL}, {"cross_attention_dim": 2048, "sample_size": 128}, {},
         ModelKind("SD-XL", False, "epsilon", 128, False)),
        ({"_class_name": "StableDiffusionXLInpaintPipeline", **XL}, {"cross_attention_dim": 2048, **INPAINT}, V,
         ModelKind("SD-XL", True, "v_prediction", 64, False)),
        ({"_class_name": ["pipeline", "JediPipeline"], "trained_modes": ["one_way"]}, INPAINT, V,
         ModelKind("Stable Diffusion 1.x", True, "v_prediction", 64, True)),
        # an old folder, with the parts that are not used
        ({"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
          "feature_extractor": ["transformers", "CLIPFeatureExtractor"]}, {"cross_attention_dim": 640}, {},
         ModelKind("Stable Diffusion", False, "epsilon", 64, False)),
    ],
)  # fmt: skip
def test_the_kind_is_seen(folder, index, unet, scheduler, kind):
    assert detect(folder(index, unet, scheduler)) == kind


@pytest.mark.parametrize(
    ("index", "unet", "name"),
    [
        ({"_class_name": "StableDiffusion3Pipeline", "unet": "absent"}, {}, "Stable Diffusion 3"),
        ({"_class_name": "FluxPipeline", "unet": "absent"}, {}, "FLUX"),
        ({"_class_name": "Flux2KleinPipeline", "unet": "absent"}, {}, "FLUX.2"),
        ({"_class_name": "PixArtSigmaPipeline", "unet": "absent"}, {}, "PixArt"),
        ({"_class_name": "KandinskyV22Pipeline"}, {}, "Kandinsky"),
        ({"_class_name": "IFPipeline"}, {"in_channels": 3, "out_channels": 6}, "DeepFloyd IF"),
        ({"_class_name": "StableCascadeDecoderPipeline", "unet": "absent"}, {}, "Stable Cascade"),
        ({"_class_name": "StableUnCLIPImg2ImgPipeline"}, {"class_embed_type": "projection"}, "Stable unCLIP"),
        ({"_class_name": "StableDiffusionDepth2ImgPipeline"}, {"in_channels": 5}, "Stable Diffusion 2's depth variant"),
        ({"_class_name": "StableDiffusionUpscalePipeline"}, {"in_channels": 7}, "Stable Diffusion's x4 upscaler"),
        # parts that were taken out of their pipeline
        ({}, {"in_channels": 5}, "Stable Diffusion 2's depth variant (its UNet takes 5 channels, not 4 or 9)"),
        ({}, {"in_channels": 7}, "Stable Diffusion's x4 upscaler (its UNet takes 7 channels, not 4 or 9)"),
        ({}, {"in_channels": 8}, "InstructPix2Pix (its UNet takes 8 channels, not 4 or 9)"),
        ({"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": NONE, "tokenizer": NONE, **XL},
         {"cross_attention_dim": 1280}, "SD-XL's refiner"),
        ({"_class_name": "AuraFlowPipeline", "unet": "absent"}, {}, "of the class 'AuraFlowPipeline'"),
        ({"_class_name": "absent", "unet": "absent"}, {}, "no model of diffusers: its index names no pipeline"),
    ],
)  # fmt: skip
def test_another_kind_is_called_by_its_name(folder, index, unet, name):
    path = folder(index, unet)
    for load in (load_base, JediPipeline.from_pretrained):
        with pytest.raises(InputError) as error:
            load(path)
        assert str(error.value) == f"{path} is {name}; {SUPPORTED}"


def test_the_command_says_it_in_one_line(folder, tmp_path, capsys):
    path = folder({"_class_name": "StableDiffusionDepth2ImgPipeline"}, {"in_channels": 5})
    assert sample.main(["--model", str(path), "--prompt", "a cat", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "is Stable Diffusion 2's depth variant; JeDi takes Stable Diffusion 1.x and 2.x" in error
    assert error.count("\n") == 1


def test_a_stock_inpainting_base_is_no_trained_model(tiny_model):
    """Its UNet takes the same nine channels; what tells them apart is that it names no modes."""
    assert detect(tiny_model).trained and detect(tiny_model).inpainting
    assert str(detect(tiny_model)) == "Stable Diffusion (trained by JeDi, v_prediction)"
