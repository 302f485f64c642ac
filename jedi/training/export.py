"""A training run -> a diffusers folder: ``python -m jedi.training.export RUN OUT``.

The folder holds the averaged weights and all else that sampling needs; `JediPipeline.from_pretrained` reads
it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jedi.errors import InputError
from jedi.io.command_line import Parser, exit_code
from jedi.io.files import atomic


def export(run: str | Path, out: str | Path, checkpoint: str = "last") -> Path:
    """Writes the averaged weights of ``run`` as a diffusers folder, safetensors only; whole or not at all.

    Raises:
        InputError: ``out`` exists and is not an empty folder, or the run cannot be read.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already: remove it, or choose another name")
    from jedi.training.load_run import load_run

    pipe = load_run(run, checkpoint)
    for part in (pipe.unet, pipe.vae):
        part.register_to_config(_name_or_path="")  # where the base lay on the machine that trained
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as temporary:
        pipe.save_pretrained(temporary, safe_serialization=True)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, 2 with one line on stderr for a mistake in the request."""
    parser = Parser(prog="python -m jedi.training.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a training run")
    parser.add_argument("out", help="folder to write; must not exist")
    parser.add_argument(
        "--checkpoint", default="last", metavar="NAME", help="last, best, or a name in checkpoints/ (kept-00001000)"
    )

    def work() -> None:
        args = parser.parse_args(argv)
        print(f"wrote {export(args.run, args.out, args.checkpoint)}")

    return exit_code("jedi.training.export", work, ", nothing was written")


if __name__ == "__main__":
    sys.exit(main())
