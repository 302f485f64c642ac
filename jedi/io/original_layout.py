"""Stable Diffusion's weights under their original names, in one file, as ComfyUI and others read them.

diffusers reads such files (:mod:`jedi.io.single_file`); this is the way there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jedi.errors import InputError
from jedi.io.files import atomic

UNET, VAE = "model.diffusion_model.", "first_stage_model."
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
}


def write_original(parts: Mapping[str, Any], out: Path, settings: Mapping[str, Any], dtype: torch.dtype) -> Path:
    """Writes unet, vae and text encoders of a model as one file.

    Args:
        settings: plain values that a reader of ours needs and the layout has no place for; in the file's metadata.
        dtype: of all weights.

    Raises:
        InputError: a UNet that no original model is like.
    """
    from safetensors.torch import save_file

    weights = {name: value.to(dtype).contiguous() for name, value in original_weights(parts)}
    if parts.get("text_encoder_2") is not None and parts["scheduler"].config.prediction_type == "v_prediction":
        weights |= {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}  # ComfyUI's marks, for SD-XL
    with atomic(out) as temporary:
        save_file(weights, temporary, {"format": "pt", "jedi": json.dumps(settings)})
    return out


def original_weights(parts: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of a model's parts in the original layout."""
    yield from _unet(parts["unet"])
    yield from _vae(parts["vae"])
    second = parts.get("text_encoder_2")
    if second is not None:
        yield from _clip(parts["text_encoder"], "conditioner.embedders.0.transformer.text_model.")
        yield from _open_clip(second, "conditioner.embedders.1.model.")
    elif parts["text_encoder"].config.hidden_act == "quick_gelu":  # OpenAI's, of 1.x
        yield from _clip(parts["text_encoder"], "cond_stage_model.transformer.text_model.")
    else:
        yield from _open_clip(parts["text_encoder"], "cond_stage_model.model.")


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for new, old in names.items():
        name = re.sub(rf"(^|\.){re.escape(new)}(?=\.|$)", rf"\g<1>{old}", name)
    return name


def _unet(unet: Any) -> Iterator[tuple[str, Tensor]]:
    layers, coupled = unet.config.layers_per_block, unet.config.up_block_types
    if not isinstance(layers, int):
        raise InputError(f"the unet has {layers} layers a block: the original layout knows one number for all")

    def block(b: int, kind: str, j: int, down: bool) -> str:
        place = f"input_blocks.{1 + b * (layers + 1) + j}" if down else f"output_blocks.{b * (layers + 1) + j}"
        return f"{place}.{int(kind == 'attentions')}"

    rules: list[tuple[str, Callable[[re.Match[str]], str]]] = [
        (
            r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)",
            lambda m: block(int(m[2]), m[3], int(m[4]), m[1] == "down"),
        ),
        (r"down_blocks\.(\d+)\.downsamplers\.0\.conv", lambda m: f"input_blocks.{(int(m[1]) + 1) * (layers + 1)}.0.op"),
        (
            r"up_blocks\.(\d+)\.upsamplers\.0",  # behind the resnet, and the attention where there is one
            lambda m: (
                f"output_blocks.{int(m[1]) * (layers + 1) + layers}.{1 + coupled[int(m[1])].startswith('CrossAttn')}"
            ),
        ),
        (r"mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
        (r"mid_block\.attentions\.0", lambda m: "middle_block.1"),
    ]
    for name, value in unet.state_dict().items():
        inner = _renamed(name, _RESNET if ".resnets." in name else _UNET)
        for pattern, new in rules:
            inner = re.sub(rf"^{pattern}(?=\.)", new, inner)
        yield UNET + inner, value


def _vae(vae: Any) -> Iterator[tuple[str, Tensor]]:
    last = len(vae.config.block_out_channels) - 1
    rules: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        (r"down_blocks\.(\d+)", r"down.\1"),
        (r"up_blocks\.(\d+)", lambda m: f"up.{last - int(m[1])}"),
        (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"resnets\.(\d+)", r"block.\1"),
        (r"downsamplers\.0", "downsample"),
        (r"upsamplers\.0", "upsample"),
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
    ]
    for name, value in vae.state_dict().items():
        inner = _renamed(name, _VAE_ATTENTION) if ".attentions." in name else name
        for pattern, new in rules:
            inner = re.sub(rf"(?<=\.){pattern}(?=\.)", new, inner)
        if ".attentions." in name and value.ndim == 2:  # a 1 x 1 convolution there
            value = value[:, :, None, None]
        yield VAE + inner, value


def _clip(encoder: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in encoder.state_dict().items():
        if not name.endswith("position_ids"):
            yield prefix + name.removeprefix("text_model."), value


def _open_clip(encoder: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    weights = {name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()}
    for name, value in weights.items():
        if name == "text_projection.weight":
            yield f"{prefix}text_projection", value.T
        elif ".q_proj." in name:  # queries, keys and values are one matrix there
            start, _, end = name.partition(".q_proj.")
            joined = torch.cat([weights[f"{start}.{x}_proj.{end}"] for x in "qkv"])
            yield f"{prefix}{_renamed(start, _OPEN_CLIP)}.in_proj_{end}", joined
        elif not re.search(r"\.[kv]_proj\.|position_ids$", name):
            yield prefix + _renamed(name, _OPEN_CLIP), value
