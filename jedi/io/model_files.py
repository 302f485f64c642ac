"""What we use of the JSON files of a model folder, by types and ranges; checked before anything is built of them.

A value that no description names must still be harmless: a finite number up to a million, a text, a flag, nothing, or
lists and objects of these. So no file makes us allocate what is not there, or compute with what is no number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jedi.diffusion import PREDICTION_TYPES
from jedi.errors import InputError, short
from jedi.io.ranges import DTYPES

Check = Callable[[Any], bool]
Rule = tuple[str, Check]
"""What is right, in words, and whether a value is."""

_MOST = 1_000_000


def number(low: float, high: float, open_low: bool = False) -> Rule:
    """A finite number from ``low`` (or above it) to ``high``."""
    right = lambda x: _is_number(x) and (low < x if open_low else low <= x) and x <= high
    return f"a number {'above' if open_low else 'from'} {low:g} {'and up ' if open_low else ''}to {high:g}", right


def whole(low: int, high: int) -> Rule:
    """A whole number from ``low`` to ``high``."""
    return f"a whole number from {low} to {high}", lambda x: _is_number(x) and isinstance(x, int) and low <= x <= high


def one_of(*values: Any) -> Rule:
    """One of these values, of the same type."""
    text = " or ".join(json.dumps(value) for value in values)
    return text, lambda x: any(type(x) is type(value) and x == value for value in values)


def list_of(rule: Rule, least: int = 1, most: int = 16) -> Rule:
    """A list of ``least`` to ``most`` values that each follow the rule."""
    right = lambda x: isinstance(x, list) and least <= len(x) <= most and all(rule[1](value) for value in x)
    return f"a list of {least} to {most}, each {rule[0]}", right


def either(*rules: Rule) -> Rule:
    """What follows one of the rules."""
    return " or ".join(rule[0] for rule in rules), lambda x: any(rule[1](x) for rule in rules)


FLAG: Rule = ("true or false", lambda x: isinstance(x, bool))
NOTHING: Rule = one_of(None)
TEXT: Rule = ("a text of one line", lambda x: isinstance(x, str) and len(x) <= 1000 and x.isprintable())
HARMLESS: Rule = (
    f"a finite number up to {_MOST:,}, a text, true, false, null, or a list or object of such",
    lambda x: _harmless(x),
)
_CHANNELS, _LAYERS = whole(1, 16_384), whole(1, 32)
_WIDTHS, _HEADS = list_of(_CHANNELS, 1, 8), either(_CHANNELS, list_of(_CHANNELS, 1, 8))

UNET: dict[str, Rule] = {
    "sample_size": either(whole(1, 2048), list_of(whole(1, 2048), 2, 2)),
    "in_channels": whole(1, 1024),
    "out_channels": whole(1, 1024),
    "block_out_channels": _WIDTHS,
    "down_block_types": list_of(one_of("DownBlock2D", "CrossAttnDownBlock2D"), 1, 8),
    "mid_block_type": one_of("UNetMidBlock2DCrossAttn"),
    "up_block_types": list_of(one_of("UpBlock2D", "CrossAttnUpBlock2D"), 1, 8),
    "layers_per_block": either(_LAYERS, list_of(_LAYERS, 1, 8)),
    "transformer_layers_per_block": either(_LAYERS, list_of(_LAYERS, 1, 8)),
    "attention_head_dim": _HEADS,
    "num_attention_heads": either(NOTHING, _HEADS),
    "cross_attention_dim": _CHANNELS,
    "norm_num_groups": whole(1, 1024),
    "norm_eps": number(0, 1, open_low=True),
    "dropout": number(0, 0.9),
    "downsample_padding": whole(0, 1),
    "conv_in_kernel": whole(1, 15),
    "conv_out_kernel": whole(1, 15),
    "mid_block_scale_factor": number(0, 1000, open_low=True),
    "resnet_out_scale_factor": number(0, 1000, open_low=True),
    "freq_shift": whole(0, 1),
    "act_fn": TEXT,
    "resnet_time_scale_shift": one_of("default", "scale_shift"),
    "time_embedding_type": one_of("positional"),
    "attention_type": one_of("default"),
    "time_embedding_dim": either(NOTHING, _CHANNELS),
    **dict.fromkeys(
        ("center_input_sample", "flip_sin_to_cos", "resnet_skip_time_act", "use_linear_projection"),
        FLAG,
    ),
    "upcast_attention": either(FLAG, NOTHING),
    # SD-XL is told a caption as a whole, and sizes.
    "addition_embed_type": either(NOTHING, one_of("text_time")),
    "addition_time_embed_dim": either(NOTHING, whole(1, 16_384)),
    "projection_class_embeddings_input_dim": either(NOTHING, whole(1, 65_536)),
    # What needs inputs that a joint UNet is not given (classes, images, ...).
    **dict.fromkeys(
        (
            "class_embed_type", "encoder_hid_dim", "encoder_hid_dim_type", "num_class_embeds",
            "time_cond_proj_dim",
        ),
        NOTHING,
    ),
    **dict.fromkeys(("dual_cross_attention", "class_embeddings_concat"), one_of(False)),
    "only_cross_attention": either(one_of(False), list_of(one_of(False), 1, 8)),
}  # fmt: skip
VAE: dict[str, Rule] = {
    "in_channels": whole(3, 3),
    "out_channels": whole(3, 3),
    "latent_channels": whole(1, 256),
    "block_out_channels": _WIDTHS,
    "down_block_types": list_of(one_of("DownEncoderBlock2D"), 1, 8),
    "up_block_types": list_of(one_of("UpDecoderBlock2D"), 1, 8),
    "layers_per_block": _LAYERS,
    "norm_num_groups": whole(1, 1024),
    "act_fn": TEXT,
    "scaling_factor": number(1e-4, 1e4),
    "shift_factor": either(NOTHING, number(-1e4, 1e4)),
    # One mean and scale a channel: encode_pixels knows scaling_factor and shift_factor only.
    "latents_mean": NOTHING,
    "latents_std": NOTHING,
    **dict.fromkeys(("force_upcast", "mid_block_add_attention", "use_quant_conv", "use_post_quant_conv"), FLAG),
}
TEXT_ENCODER: dict[str, Rule] = {
    "vocab_size": whole(2, _MOST),
    "max_position_embeddings": whole(2, 4096),
    "hidden_size": _CHANNELS,
    "projection_dim": _CHANNELS,
    "intermediate_size": whole(1, 65_536),
    "num_hidden_layers": whole(1, 128),
    "num_attention_heads": whole(1, 1024),
    "hidden_act": TEXT,
    "layer_norm_eps": number(0, 1, open_low=True),
    "attention_dropout": number(0, 0.9),
    "eos_token_id": whole(0, _MOST),
    "dtype": either(NOTHING, one_of(*DTYPES)),
    "quantization_config": NOTHING,
}
TOKENIZER: dict[str, Rule] = {
    # transformers writes 1e30 where it is not known: the text encoder says it then.
    "model_max_length": number(2, 1e31),
}
SCHEDULER: dict[str, Rule] = {
    "num_train_timesteps": whole(2, 100_000),
    "beta_start": number(0, 1, open_low=True),
    "beta_end": number(0, 1, open_low=True),
    "beta_schedule": TEXT,
    "trained_betas": either(NOTHING, list_of(number(0, 1), 2, 100_000)),
    "prediction_type": one_of(*PREDICTION_TYPES),
    "steps_offset": whole(0, 1000),
    "timestep_spacing": one_of("linspace", "leading", "trailing"),
    "sample_max_value": number(0, 1000, open_low=True),
    "clip_sample_range": number(0, 1000, open_low=True),
    "dynamic_thresholding_ratio": number(0, 1),
    "solver_order": whole(1, 3),
    **dict.fromkeys(
        (
            "clip_sample", "thresholding", "set_alpha_to_one", "rescale_betas_zero_snr", "skip_prk_steps",
            "lower_order_final", "euler_at_final", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
        ),
        either(FLAG, NOTHING),
    ),
}  # fmt: skip
PIPELINE: dict[str, Rule] = {
    "trained_modes": list_of(TEXT),
    "max_trained_references": either(NOTHING, whole(0, 10_000)),
    "prediction_type": either(NOTHING, one_of(*PREDICTION_TYPES)),
    "sampling_defaults": either(NOTHING, ("an object", lambda x: isinstance(x, dict))),  # its keys: DEFAULTS
    "knows": either(NOTHING, TEXT),
    "force_zeros_for_empty_prompt": FLAG,
}
DEFAULTS: dict[str, Rule] = {
    "num_inference_steps": whole(1, 100_000),
    "guidance": TEXT,
    "guidance_scale": number(0, 1000),
    "image_guidance_scale": number(0, 1000),
}
"""What ``sampling_defaults`` of a pipeline may hold."""


def read_model_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file in UTF-8. Raises ``InputError`` naming the file for anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({str(error) or type(error).__name__})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected an object, found {short(values)}")
    return values


def check_values(
    path: Path, values: Mapping[str, Any], rules: Mapping[str, Rule], needed: tuple[str, ...] = ()
) -> None:
    """Raises ``InputError`` that names the file and the key of the first value that breaks its rule."""
    for key in needed:
        if key not in values:
            raise InputError(f"{path}: {key} is missing; it must be {rules[key][0]}")
    for key, value in values.items():
        right, follows = rules.get(key, HARMLESS)
        if not follows(value):
            raise InputError(f"{path}: {short(key)} is {short(value)}; it must be {right}")


def _is_number(x: Any) -> bool:
    return type(x) is int or (type(x) is float and math.isfinite(x))


def _harmless(x: Any, depth: int = 0) -> bool:
    if isinstance(x, (list, dict)):
        values = x if isinstance(x, list) else x.values()
        return depth < 8 and len(x) <= 1000 and all(_harmless(value, depth + 1) for value in values)
    return x is None or isinstance(x, (bool, str)) or (_is_number(x) and abs(x) <= _MOST)
