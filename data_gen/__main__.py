"""Same-subject training data.  python -m data_gen run --config configs/data_gen/tiny.yaml key=value ..."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from data_gen.packages import EXTRAS
from jedi.errors import InputError
from jedi.io.command_line import Parser, add_settings, exit_code, part_of

_VERBS = {
    "run": "all that is missing: prompts, plan, units, shards, report; with --part only units",
    "prompts": "let the language model (or the grammar) write subjects and prompts",
    "plan": "freeze settings, inputs and division into units in plan.json, after the prompts",
    "finish": "when all units are done: drop near-duplicates, pack the shards, write the report",
    "status": "how far it is, from the manifests alone; out=DIR is enough, as for report",
    "report": "write statistics, report and data card again",
}


_EMPTY = "out={} holds no data set yet: no plan.json"


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0 done, 1 the work could not continue, 2 a mistake in the input."""

    def work() -> None:
        try:
            for line in _do(_parser().parse_args(arguments)):
                print(line)
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            extra = EXTRAS[error.name]
            raise InputError(f"{error.name} is not installed: pip install 'jedi-diffusion[{extra}]'") from error

    return exit_code("error", work, "; the same command resumes from here", "lower the batch sizes in the settings")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m data_gen", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="|".join(_VERBS))
    for verb, text in _VERBS.items():
        sub = verbs.add_parser(verb, help=text, description=text)
        add_settings(sub, "configs/data_gen/tiny.yaml", "sets=100 out=data/mine")
        if verb == "run":
            text = "begin at the I-th of N parts of the units, I from 0, and leave out `finish`: for arrays of tasks"
            sub.add_argument("--part", metavar="I/N", help=text)
    text = "upload a finished data set to the hub, as its viewer reads it"
    sub = verbs.add_parser("push", help=text, description=text)
    sub.add_argument("folder", help="of the data set")
    sub.add_argument("name", help="OWNER/NAME of a data set on the hub; made where there is none")
    sub.add_argument("--private", action="store_true", help="make it a private one")
    return parser


def _do(options: argparse.Namespace) -> Iterator[str]:
    """Does what is asked; yields what is to be said."""
    if options.verb == "push":
        from data_gen.push import push_data

        yield f"uploaded to {push_data(Path(options.folder), options.name, options.private)}"
        return
    from data_gen import run
    from data_gen.config import load_config, schema_of
    from data_gen.plan import frozen_settings, read_plan
    from data_gen.status import status
    from jedi.io.config import ConfigError, given_values, printed
    from jedi.io.files import locked

    if options.print_config:
        yield printed(schema_of(options.config, options.overrides), options.config, options.overrides).rstrip()
        return
    settings, out = options.config, given_values(options.config, options.overrides).get("out")
    if settings is None and out and options.verb in ("status", "report"):  # out= is enough: the plan knows the rest
        settings = frozen_settings(str(out))
        if settings is None:
            raise ConfigError(_EMPTY.format(out))
    config = load_config(settings, options.overrides)
    part = None if (text := getattr(options, "part", None)) is None else part_of(text)
    if options.verb == "prompts":
        yield from run.prompts(config)
        return
    if options.verb == "plan":
        plan = run.prepare(config)
        yield f"{plan.out}: {len(plan.units)} units of {sum(unit.count for unit in plan.units)} sets"
        return
    if options.verb == "run":
        if part is None:
            run.run(config)
        elif waiting := run.run_part(config, *part):
            yield f"{waiting} units are left to other tasks that are at work on them"
    plan = read_plan(config)
    if plan is None:
        raise ConfigError(_EMPTY.format(config.out))
    if options.verb == "finish":
        with locked(config.out), run.clear_errors(config):
            run.finish(config, plan)
    if options.verb == "report":
        from data_gen.report import write_report

        write_report(config, plan)
    found = status(config, plan)
    first, *more = found.lines()
    yield f"{config.out}: {first}"
    yield from more
    if options.verb in ("finish", "report") or (options.verb == "run" and part is None):
        yield f"look at {config.out}/report/report.html and {config.out}/DATA_CARD.md"
        if not found.sets:
            why = ", ".join(f"{reason} ({count})" for reason, count in found.dropped.most_common(3))
            remedy = "loosen what dropped them" if why else "none was planned"
            raise InputError(f"out={config.out} holds no set: {why}; {remedy}")
        if config.heldout_sets and not found.heldout:
            yield "no set is held out, so nothing measures what was not trained on: more subjects are needed for that"


if __name__ == "__main__":
    sys.exit(main())
