"""Images + references + prompts -> scores and a report.

python evaluate.py dreambench --data DIR --model M --refs 1 --out out/dreambench
python evaluate.py toy --data DIR --model M --out out/toy
python evaluate.py scores --images DIR --references DIR --prompts FILE --out out/scores

Each writes report.html (one file, for any browser), report.json and scores.json (a score for each image) into --out.
What takes long is resumed by the same command. Exit code 0: done, 2: a mistake in the request, in
one line on stderr, 130: interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

from jedi.io.command_line import Parser, exit_code

COMMANDS = {
    "dreambench": (
        "jedi.evaluation.commands.dreambench",
        "DreamBench or DreamBench++: generate, score, compare with others",
    ),
    "toy": ("jedi_toy.benchmark.command", "held-out subjects of the emoji source: attributes, retrieval, editing"),
    "scores": ("jedi.evaluation.commands.scores", "scores for any images, by any method"),
}
"""Name -> its module, with ``add_arguments(parser)`` and ``run(arguments)``, and what it does."""


def parser(command: str | None) -> argparse.ArgumentParser:
    """All subcommands; the options of ``command`` only, for the others are not needed."""
    p = Parser(prog="evaluate.py", description="Scores and a report. Options: evaluate.py SUBCOMMAND --help")
    commands = p.add_subparsers(dest="command", metavar="SUBCOMMAND", required=True)
    for name, (_, text) in COMMANDS.items():
        subparser = commands.add_parser(name, help=text, description=f"{text}. In brackets: the default.")
        if name == command:
            module_of(name).add_arguments(subparser)
    return p


def module_of(command: str) -> ModuleType:
    """The module of a subcommand."""
    return importlib.import_module(COMMANDS[command][0])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)

    def work() -> None:
        command = argv[0] if argv and argv[0] in COMMANDS else None
        arguments = parser(command).parse_args(argv)
        module_of(arguments.command).run(arguments)

    return exit_code("evaluate.py", work, "; what is done is kept, the same command resumes")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception: temporary files are removed
    sys.exit(main())
