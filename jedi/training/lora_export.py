"""The adapters of a run as a LoRA that `load_lora_weights` loads onto the base, and what stands beside it."""

from __future__ import annotations

from pathlib import Path

from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from jedi.errors import InputError
from jedi.io import config as configs
from jedi.mixins import CONV_IN
from jedi.pipeline import JediPipeline
from jedi.training.config import TrainConfig
from jedi.training.load_run import is_run
from jedi.training.trained import trained

USAGE = """# LoRA of a JeDi model

It needs [{source}], which it was trained on, and the package jedi-diffusion.

```python
{load}
pipe.load_lora_weights("FOLDER")  # this folder: the adapters{beside}
```
"""
_GROWN = """from diffusers import DiffusionPipeline
from jedi.pipeline import JediPipeline

pipe = JediPipeline.from_pipe(DiffusionPipeline.from_pretrained("{source}"), **{settings})"""
_TRAINED = """from jedi.pipeline import JediPipeline

pipe = JediPipeline.from_pretrained("{source}", **{settings})"""


def write_lora(folder: Path, run: Path, pipe: JediPipeline) -> None:
    """Writes ``pytorch_lora_weights.safetensors``, a trained `conv_in` beside it, and how the two are used.

    ``pipe`` comes from ``load_run(run, merge=False)``. The adapters' scale, alpha / rank, is multiplied into their
    weights, so that readers that do not know it compute the same.

    Raises:
        InputError: the run trained no adapters, or upon another run, which is no model to load them onto.
    """
    config = configs.load(TrainConfig, run / "config.yaml")
    if config.lora.rank is None:
        raise InputError(f"--lora separate: {run} did not train adapters (lora.rank)")
    source = config.init_from or config.base
    if is_run(source):
        raise InputError(f"--lora separate: {run} started from the run {source}; --lora merged writes a whole model")
    adapters = get_peft_model_state_dict(pipe.unet)
    settings = pipe.unet.peft_config["default"]
    scale, settings.lora_alpha = settings.lora_alpha / settings.r, settings.r
    settings.lora_dropout = 0.0  # layers that are added to a UNet on loading are in training mode
    layers = {name: x * scale if "lora_B" in name else x for name, x in adapters.items()}
    pipe.save_lora_weights(
        folder,
        unet_lora_layers=convert_state_dict_to_diffusers(layers),
        unet_lora_adapter_metadata=_collate_lora_metadata({"unet": pipe.unet})["unet_lora_adapter_metadata"],
    )
    grown = "conv_in.weight" in trained(pipe.unet)
    if grown:
        weights = {name: x.contiguous() for name, x in pipe.unet.conv_in.state_dict().items()}
        save_file(weights, folder / CONV_IN, {"format": "pt"})
    given = {name: pipe.config[name] for name in ("trained_modes", "max_trained_references", "sampling_defaults")}
    load = (_GROWN if grown else _TRAINED).format(source=source, settings=given)
    beside = f", and {CONV_IN}" if grown else ""
    (folder / "README.md").write_text(USAGE.format(source=source, load=load, beside=beside), encoding="utf-8")
