"""``python -m jedi_toy.encoder --config FILE key=value ...``"""

import logging
import sys
from collections.abc import Sequence

import jedi_toy.encoder
from jedi.io.command_line import Parser, add_settings, exit_code
from jedi.io.config import of_command
from jedi_toy.encoder.config import EncoderConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Trains the encoder; returns the exit code."""
    parser = Parser(prog="python -m jedi_toy.encoder", description=jedi_toy.encoder.__doc__.split("\n")[0])
    add_settings(parser, "configs/evaluation/encoder.yaml", "out=models/mine")

    def work() -> None:
        if (config := of_command(EncoderConfig, parser.parse_args(argv))) is not None:
            from jedi_toy.encoder.training import train

            logging.basicConfig(level=logging.INFO, format="%(message)s")
            logging.info("encoder: %s", train(config))

    return exit_code("encoder", work, "; the same command resumes", "fewer sets or drawings need less")


if __name__ == "__main__":
    sys.exit(main())
