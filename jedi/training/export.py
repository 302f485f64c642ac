"""A training run -> a diffusers folder: ``python -m jedi.training.export RUN OUT``.

The folder holds the averaged weights and all else that sampling needs; `JediPipeline.from_pretrained` reads
it, and plain diffusers where jedi-diffusion is installed. ``--single-file`` writes Stable Diffusion's original layout.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jedi.errors import InputError
from jedi.io.command_line import Parser, exit_code
from jedi.io.files import atomic
from jedi.io.push import check_name, push
from jedi.io.ranges import DTYPES

if TYPE_CHECKING:
    from jedi.pipeline import JediPipeline

PIPELINE_CODE = '''"""For DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)."""

try:
    from jedi.pipeline import JediPipeline as _JediPipeline
except ImportError as error:
    message = "this model needs the package jedi-diffusion (import name jedi): pip install jedi-diffusion"
    raise ImportError(message) from error


class JediPipeline(_JediPipeline):
    """Images of the subject that references show."""
'''


def export(
    run: str | Path,
    out: str | Path | None,
    checkpoint: str = "last",
    dtype: str = "float32",
    variant: str | None = None,
    single_file: str | Path | None = None,
    lora: Literal["merged", "separate"] = "merged",
) -> Path:
    """Writes the averaged weights of ``run`` as a diffusers folder with its model card, safetensors only, as one file
    in the original layout, or both; each whole or not at all. Returns the folder, or the file where that is all.

    Args:
        checkpoint: `last`, `best`, or a name in checkpoints/.
        dtype: of the weights.
        variant: a part of the names of the weights' files, `fp16` for instance.
        single_file: a new .safetensors file.
        lora: adapters are merged into the UNet, or `separate`: the folder holds them alone, with a trained `conv_in`,
            to be loaded onto the base.

    Raises:
        InputError: ``out`` exists and is not an empty folder, or the run cannot be read.
    """
    out, single = (None if place is None else Path(place) for place in (out, single_file))
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already: remove it, or choose another name")
    if single is not None and (single.exists() or single.suffix != ".safetensors"):
        raise InputError(f"--single-file {single}: expected the name of a new file that ends in .safetensors")
    written = out or single
    if written is None:
        raise InputError("nothing to write: give a folder, or --single-file FILE")
    separate = lora == "separate"
    if separate and (out is None or single is not None or variant is not None):
        raise InputError("--lora separate writes a folder, without --single-file and --variant")
    import torch

    from jedi.io.quiet import quiet
    from jedi.training.load_run import load_run

    with quiet():
        pipe = load_run(run, checkpoint, merge=not separate).to(getattr(torch, dtype))
        for part in (pipe.unet, pipe.vae):
            part.register_to_config(_name_or_path="")  # where the base lay on the machine that trained
        if single is not None:
            single.parent.mkdir(parents=True, exist_ok=True)
            write_single(pipe, single)
        if out is not None:
            from jedi.training.card import write_card
            from jedi.training.lora_export import write_lora

            out.parent.mkdir(parents=True, exist_ok=True)
            with atomic(out) as temporary:
                if separate:
                    temporary.mkdir(exist_ok=True)
                    write_lora(temporary, Path(run), pipe)
                    return written
                pipe.save_pretrained(temporary, safe_serialization=True, variant=variant)
                write_for_diffusers(temporary)
                write_card(temporary, Path(run), checkpoint, pipe)
    return written


def write_for_diffusers(folder: Path) -> None:
    """Adds the few lines of code that let plain diffusers open the folder, and names them in its index."""
    (folder / "pipeline.py").write_text(PIPELINE_CODE, encoding="utf-8")
    index = folder / "model_index.json"
    values = json.loads(index.read_text(encoding="utf-8")) | {"_class_name": ["pipeline", "JediPipeline"]}
    index.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_single(pipe: JediPipeline, file: Path) -> None:
    """The pipeline as one file in the original layout; what the layout has no place for goes into its metadata."""
    from jedi.io.model_files import PIPELINE
    from jedi.io.original_layout import write_original

    settings = {
        "index": {key: pipe.config[key] for key in PIPELINE if key in pipe.config},
        "scheduler": json.loads(pipe.scheduler.to_json_string()),
        "sample_size": pipe.unet.config.sample_size,
    }
    write_original(pipe.components, file, settings, pipe.unet.dtype)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, 2 with one line on stderr for a mistake in the request."""
    parser = Parser(prog="python -m jedi.training.export", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("run", help="folder of a training run")
    add("out", nargs="?", help="folder to write; must not exist")
    add("--checkpoint", default="last", metavar="NAME", help="last, best, or a name in checkpoints/ (kept-00001000)")
    add("--dtype", default="float32", choices=DTYPES, help="of the weights (float32)")
    add("--variant", metavar="V", help="part of the files' names: fp16 for diffusers' variant=fp16")
    add("--single-file", metavar="FILE", help="write Stable Diffusion's original layout, as ComfyUI reads it")
    add(
        "--lora", default="merged", choices=("merged", "separate"), help="of a LoRA run: merged into the UNet, or alone"
    )
    add("--push-to-hub", metavar="OWNER/NAME", help="upload the folder to the model hub")
    add("--private", action="store_true", help="with --push-to-hub: a repository that is new is private")

    def work() -> None:
        args = parser.parse_args(argv)
        if args.push_to_hub is not None:
            check_name(args.push_to_hub, "--push-to-hub")
            if args.out is None:
                raise InputError("--push-to-hub needs the folder to write: RUN OUT")
        export(args.run, args.out, args.checkpoint, args.dtype, args.variant, args.single_file, args.lora)
        print(f"wrote {' and '.join(place for place in (args.out, args.single_file) if place)}")
        if args.push_to_hub is not None:
            print(f"uploaded to {push(Path(args.out), args.push_to_hub, 'model', args.private)}")

    return exit_code("jedi.training.export", work, ", nothing was written", "--dtype float16 needs less")


if __name__ == "__main__":
    sys.exit(main())
