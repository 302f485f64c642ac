"""What the commands share. There is one way on the command line, in two forms:

- What is asked for once is given by flags: ``sample.py``, ``evaluate.py``, ``python -m jedi.training.export``.
- What is set up, and recorded with its result, is given by ``--config FILE`` and ``key=value``: ``train.py`` and
  ``python -m`` ``data_gen``, ``jedi.training.latents``, ``jedi_toy.tiny_base``, ``jedi_toy.encoder``.
  ``--print-config`` prints the settings that result.

A mistake in the request ends in one line on stderr and an exit code (:func:`exit_code`), a bug in its traceback. A
command imports what is slow after it has read its arguments, so that ``--help`` and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import io
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from jedi.errors import InputError, one_line, out_of_memory
from jedi.io.ranges import DTYPES

GUIDANCE_RULES = ("two_branch", "plain", "three_branch", "three_branch_rescaled")
"""Those of :mod:`jedi.guidance`, by name: `--help` must not load torch, which that needs."""


class Parser(argparse.ArgumentParser):
    """Raises :class:`InputError` for a mistake, for :func:`exit_code` to say in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def add_settings(parser: argparse.ArgumentParser, file: str, setting: str) -> None:
    """The arguments of a command that takes settings: :func:`jedi.io.config.of_command` makes them from these.

    ``file`` and ``setting`` are examples of a YAML file and of ``key=value``.
    """
    parser.add_argument("--config", metavar="FILE", help=f"settings in YAML, for instance {file}")
    text = "print all settings, with their defaults and as they would be used, and stop (??? must be given)"
    parser.add_argument("--print-config", action="store_true", help=text)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"what differs, for instance {setting}")


def add_sampling(parser: argparse._ActionsContainer) -> None:
    """The arguments that say by which model images are made, and how; without defaults."""
    add = parser.add_argument
    add("--model", metavar="M", help="a model folder or file, a training run, or a hub name (models/jedi-tiny)")
    add("--revision", metavar="R", help="of a model on the hub: a branch, a tag or a commit")
    add(
        "--variant", metavar="V", help="which files of the model's weights are read, for instance fp16 (the plain ones)"
    )
    add(
        "--model-config",
        metavar="D",
        help="of a model in one file: a folder or hub name with its JSON and tokenizer files",
    )
    add("--steps", type=int, metavar="S", help="denoising steps (the model's)")
    add("--guidance", metavar="RULE", help=f"{', '.join(GUIDANCE_RULES)} or an extension's (the model's)")
    add("--guidance-scale", type=float, metavar="G", help="weight of the prompt, 1 is off (the model's)")
    add("--image-guidance-scale", type=float, metavar="R", help="weight of the references, 1 is off (the model's)")
    add("--mode", metavar="M", help="one_way (references are encoded once) or mutual (the model's)")
    add("--dtype", metavar="T", help=f"{', '.join(DTYPES)} (float32)")
    add("--batch-size", type=int, metavar="N", help="images at once (8); the images do not depend on it")
    add("--extensions", nargs="+", metavar="MODULE", help="Python modules that add guidance rules and the like")


def part_of(text: str | None) -> tuple[int, int]:
    """``"2/8"`` -> (2, 8): the third of eight parts. ``None``: the whole."""
    if text is None:
        return 0, 1
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise InputError(f"--part {text}: expected I/N with I from 0 to N - 1, for instance 0/8")
    return int(index), int(count)


def command_line(program: str) -> str:
    """The command that runs now, for records; empty where ``program`` was not started as a command."""
    return shlex.join(["python", *sys.argv]) if Path(sys.argv[0]).name == program else ""


def exit_code(
    program: str,
    work: Callable[[], int | None],
    interrupted: str = "",
    memory: str = "a smaller --batch-size needs less",
) -> int:
    """Does the work; returns what it returns, 0 for None.

    2 (or the error's own ``status``) for a mistake in the request or what the machine refuses, 130 for Ctrl-C: each
    with one line on stderr that begins with ``program``; ``interrupted`` and ``memory`` say what to do. All other
    errors pass, and keep their traceback.
    """
    for stream in (sys.stdout, sys.stderr):  # a name that a terminal has no letters for must not end finished work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return work() or 0
    except KeyboardInterrupt:
        print(f"{program}: interrupted{interrupted}", file=sys.stderr)
        return 130
    except Exception as error:
        line = f"out of memory; {memory}" if out_of_memory(error) else one_line(error)
        if line is None:
            raise
        traceback.clear_frames(error.__traceback__)  # frees what they hold: a data loader then ends its workers
        print(f"{program}: {line}", file=sys.stderr)
        return getattr(error, "status", 2)
