"""``python -m jedi_toy.tiny_base --config FILE key=value ...``"""

import logging
import sys
from collections.abc import Sequence

import jedi_toy.tiny_base
from jedi.io.command_line import Parser, add_settings, exit_code
from jedi.io.config import of_command
from jedi_toy.tiny_base.config import TinyBaseConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the base; returns the exit code."""
    parser = Parser(prog="python -m jedi_toy.tiny_base", description=jedi_toy.tiny_base.__doc__.split("\n")[0])
    add_settings(parser, "configs/base/tiny.yaml", "out=models/tiny-base")

    def work() -> None:
        if (config := of_command(TinyBaseConfig, parser.parse_args(argv))) is not None:
            from jedi_toy.tiny_base.make import make

            logging.basicConfig(level=logging.INFO, format="%(message)s")
            logging.info("base model: %s", make(config))

    kept = "; finished parts are kept, the same command resumes"
    return exit_code("tiny_base", work, kept, "smaller batch sizes, or fewer images, need less")


if __name__ == "__main__":
    sys.exit(main())
