"""Options that the subcommands of evaluate.py share, and what of them makes no sense. Loads no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from jedi.checks import check_choice, check_count, check_options, check_scale
from jedi.evaluation.generate import Sampling
from jedi.evaluation.score import DEFAULT_ENCODERS
from jedi.io.command_line import add_sampling
from jedi.io.config import import_extensions
from jedi.io.ranges import DTYPES

DEFAULT_MODEL = str(Path(__file__).resolve().parents[3] / "models" / "jedi-tiny")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The model, and how it samples."""
    group = parser.add_argument_group("model and sampling")
    add_sampling(group)
    group.add_argument("--seed", type=int, metavar="N", help="each image's noise is drawn from this and its name (0)")
    parser.set_defaults(model=DEFAULT_MODEL, seed=0, dtype="float32", batch_size=8, extensions=[])


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Encoders and where they run."""
    add = parser.add_argument_group("scoring").add_argument
    text = "clip:X, dino:X, dinov2:X, timm:X, blip-itm:X (X: a folder or hub name) or efficientnet-lite0 "
    text += f"({' '.join(DEFAULT_ENCODERS)})"
    add("--encoders", nargs="+", default=list(DEFAULT_ENCODERS), metavar="SPEC", help=text)
    add("--device", metavar="D", help="cpu, cuda, cuda:1, mps, ... (cuda if there is one)")
    add("--samples", type=int, default=2000, metavar="N", help="of the bootstrap, by subjects (2000)")


def sampling_of(arguments: argparse.Namespace) -> Sampling:
    """How to sample. Raises ``InputError`` for what makes no sense."""
    check_options(arguments, check_count, "steps", "batch_size")
    check_options(arguments, check_scale, "guidance_scale", "image_guidance_scale")
    check_choice("--dtype", arguments.dtype, DTYPES)
    import_extensions(arguments.extensions)
    keys = ("steps", "guidance", "guidance_scale", "image_guidance_scale", "mode")
    return Sampling(**{key: getattr(arguments, key) for key in keys})
