"""The numbers of a training and of an image, as they were: what is not meant to change them must not.

The contribution rule is *identical loss*: a change that says nothing of numbers (a refactoring, a faster path, another
version of a library) leaves tests/golden as it is. A change that is meant to give other numbers writes them anew with

    python -m tests.test_golden

and says in its commit message which numbers moved and why. The tolerance is for processors and thread counts that
round differently; a wrong draw, mask, weight or schedule is far beyond it.
"""

import csv
import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import train
from jedi.pipeline import JediPipeline
from tests import tiny
from tests.conftest import write_shard

GOLDEN = Path(__file__).resolve().parent / "golden"
RELATIVE = 1e-3
RECIPE = {
    "seed": 7,
    "max_steps": 20,
    "batch_size": 4,
    "checkpoints": {"every_steps": 20},
    "data": {"workers": 0},
    "conditioning": {"mutual_prob": 0.5, "partly_given_prob": 0.5},
    "optimizer": {"lr": 1e-3, "warmup_steps": 5, "schedule": "cosine"},
    "ema": {"decay": 0.9},
    "validation": {"every_steps": 0},
    "samples": {"every_steps": 0},
    "log": {"loggers": ["csv"], "every_steps": 1},
    "hardware": {"accelerator": "cpu", "devices": "1", "precision": "32-true"},
}


def components(in_channels: int) -> dict:
    """tiny.components with weights that depend on their names alone: not on how libraries initialise, or in what
    order."""
    parts = tiny.components(in_channels=in_channels)
    for part in ("vae", "text_encoder", "unet"):
        for name, parameter in parts[part].named_parameters():
            key = int.from_bytes(hashlib.sha256(f"{part}.{name}".encode()).digest()[:4], "big")
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(key))
            gain = name.endswith("weight") and parameter.ndim == 1
            scale = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.data = drawn * scale + float(gain)
    return parts


def losses(folder: Path) -> list[float]:
    """The loss of each of 20 steps, by train.py: both modes, given boxes, sets of 3 and of 4."""
    write_shard(folder / "data" / "train", "00000", [4, 3] * 5, tiny.PIXELS, seed=1)
    base = tiny.save_base(components(tiny.LATENT_CHANNELS), folder / "base")
    recipe = RECIPE | {"base": str(base), "out": str(folder / "run")}
    recipe["data"] = RECIPE["data"] | {"path": str(folder / "data")}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert train.main(["--config", str(folder / "recipe.yaml")]) == 0
    with next((folder / "run" / "logs").rglob("metrics.csv")).open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def image(mode: str) -> list[list[float]]:
    """One sampled image, three guidance branches and two references: the means in [0, 1] of its 8 x 8 tiles, by
    channel (``[3 64]``)."""
    pipe = JediPipeline(**components(2 * tiny.LATENT_CHANNELS + 1), trained_modes=["one_way", "mutual"])
    pipe.set_progress_bar_config(disable=True)
    ramp = np.linspace(0, 255, tiny.PIXELS)
    channels = np.broadcast_arrays(ramp[:, None], ramp, 255 - ramp[:, None])
    first = Image.fromarray(np.stack(channels, -1).astype(np.uint8))
    references = [first, first.rotate(90)]
    options = {"guidance": "three_branch", "guidance_scale": 3.0, "image_guidance_scale": 2.0, "num_inference_steps": 8}
    made = pipe(
        "a red cat on grass",
        references,
        ["a red cat", "a cat"],
        mode=mode,
        generator=torch.Generator().manual_seed(11),
        output_type="pt",
        **options,
    ).images
    return torch.nn.functional.avg_pool2d(made, tiny.PIXELS // 8)[0].flatten(1).tolist()


def expected(name: str):
    return json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.mark.slow
def test_the_losses_of_twenty_steps(tmp_path):
    assert losses(tmp_path) == pytest.approx(expected("losses"), rel=RELATIVE)


@pytest.mark.parametrize("mode", ["one_way", "mutual"])
def test_a_sampled_image(mode):
    found, kept = np.array(image(mode)), np.array(expected("images")[mode])
    assert kept.std() > 0.05 and (np.abs(kept - 0.5) < 0.49).mean() > 0.5  # something is to be seen
    np.testing.assert_allclose(found, kept, rtol=0, atol=RELATIVE)


def write() -> None:
    """Writes tests/golden anew."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"losses": [float(f"{loss:.6g}") for loss in losses(Path(folder))]}
    rounded = lambda rows: [[round(value, 5) for value in row] for row in rows]
    found["images"] = {mode: rounded(image(mode)) for mode in ("one_way", "mutual")}
    for name, values in found.items():
        (GOLDEN / f"{name}.json").write_text(json.dumps(values) + "\n")


if __name__ == "__main__":
    write()
