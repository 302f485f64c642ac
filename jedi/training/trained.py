"""What of the UNet is trained: all of it, a part, or LoRA adapters beside it.

:func:`choose_trained` marks it by ``requires_grad``. The optimiser, the average and the checkpoints go by that mark:
what is not trained has no gradient, no moments and no average, is in no checkpoint, and comes from the weights that
the run started from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn

from jedi.errors import InputError
from jedi.rng import keyed_generator
from jedi.training.config import LoraSettings, TrainConfig
from jedi.unet import JointUNet

GROUPS = {
    "all": ["*"],
    "attention": ["*.attn1", "*.attn2"],
    "self_attention": ["*.attn1"],
    "cross_attention": ["*.attn2"],
    "transformers": ["*.attentions.*"],
}
"""Names for parts of the UNet, and the patterns that they stand for."""


def make_unet(base: UNet2DConditionModel, config: TrainConfig) -> JointUNet:
    """The joint UNet that a run trains, with what it trains marked: adapters added, new input channels trained.

    Raises:
        InputError: a pattern of ``network.trainable`` or ``lora.target_modules`` matches nothing.
    """
    grown = base.config.in_channels == base.config.out_channels
    unet = JointUNet.from_base(base, config.network.attention)
    choose_trained(unet.unet, config, grown)
    return unet


def choose_trained(unet: UNet2DConditionModel, config: TrainConfig, grown: bool) -> dict[str, Tensor]:
    """Marks the trained parameters and returns them by name. ``grown``: its ``conv_in`` has new channels, which are
    always trained."""
    if config.lora.rank is None:
        chosen = _matching(dict(unet.named_parameters()), config.network.trainable or ["all"])
        unet.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)
    else:
        unet.requires_grad_(False)
        _add_lora(unet, config.lora, config.seed, grown)
    if grown:
        unet.conv_in.requires_grad_(True)
    return trained(unet)


def trained(unet: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, by their names."""
    return {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}


def frozen_sha256(unet: nn.Module) -> str | None:
    """sha256 over the parameters that are not trained, which no checkpoint has; None if all are."""
    frozen = [(name, parameter) for name, parameter in unet.named_parameters() if not parameter.requires_grad]
    digest = hashlib.sha256()
    for name, parameter in sorted(frozen):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest() if frozen else None


def check_frozen(saved: Mapping[str, Any], found: str | None, config: TrainConfig) -> None:
    """Raises ``InputError`` unless the weights that are not trained are those of the checkpoint's run."""
    if saved.get("frozen_sha256") != found:
        source = f"base {config.base}" if config.init_from is None else f"init_from {config.init_from}"
        raise InputError(
            f"the run in {config.run} trains a part of the UNet, and the rest of {source} is not what it was trained "
            "with; put the old one back"
        )


def merge_lora(unet: UNet2DConditionModel) -> None:
    """Adds the adapters, if there are any, to the weights that they stand beside, and removes them."""
    if getattr(unet, "peft_config", None):
        unet.fuse_lora()
        unet.unload_lora()


def _matching(parameters: dict[str, Tensor], patterns: Sequence[str]) -> list[Tensor]:
    """Parameters that a group's name or a pattern means; a pattern matches parameters, or modules that hold them."""
    found: set[str] = set()
    for asked in patterns:
        ends = [end for pattern in GROUPS.get(asked, [asked]) for end in (pattern, f"{pattern}.*")]
        names = {name for name in parameters if any(fnmatchcase(name, end) for end in ends)}
        if not names:
            raise InputError(
                f"network.trainable: {asked!r} matches nothing in the UNet; it takes {', '.join(GROUPS)}, and patterns "
                "of parameters' names (up_blocks.*, *.attn1.to_k)"
            )
        found |= names
    return [parameter for name, parameter in parameters.items() if name in found]


def _add_lora(unet: UNet2DConditionModel, lora: LoraSettings, seed: int, grown: bool) -> None:
    """Adapters on the target layers, as diffusers' training scripts make them; they begin as no change."""
    layers = [name for name, layer in unet.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if grown:
        layers.remove("conv_in")  # trained in full
    targets: set[str] = set()
    for asked in lora.target_modules:
        names = [name for name in layers if asked == "all" or f".{name}".endswith(f".{asked}")]
        if not names:
            raise InputError(
                f"lora.target_modules: no linear or convolutional layer of the UNet has a name that ends in {asked!r}; "
                "the attention's are to_q, to_k, to_v, to_out.0, and `all` means all layers"
            )
        targets |= set(names)
    assert lora.rank is not None
    adapters = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha or lora.rank,
        lora_dropout=lora.dropout,
        init_lora_weights="gaussian",
        target_modules=sorted(targets),
    )
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(keyed_generator(seed, "lora").get_state())
        unet.add_adapter(adapters)
