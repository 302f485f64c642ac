"""``evaluate.py toy``: the benchmark over held-out subjects of the emoji source, whose attributes are exact.

For each of 100 subjects one image is generated: its caption is the prompt, and its pose and background differ from
every reference's. A small CLIP that was trained on real renders of *other* subjects judges (:mod:`encoder`): is the
subject recognised among the 100, is the background the one asked for? The pose is judged by the target's pixels
(:mod:`judge`). The report always includes

- *oracle*: the real image of the target, the best that the judge can be shown;
- *copy*: the first reference returned, what whole-image scores are fooled by;
- *no reference*: the same model and prompt, so what the prompt alone tells;
- *untrained coupling*: the same model reading the references through projections that were never trained
  (:mod:`baselines`), so what references bring without joint training.

Then: what more references bring (several noises, compared subject by subject), diversity, curves of identity against
prompt as guidance varies, editing (:mod:`edits`), and two subjects in one image. Each row's images have a folder
and a frozen plan; the same command resumes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from jedi.checks import check_count, check_options
from jedi.errors import InputError
from jedi.evaluation.commands import options
from jedi.evaluation.generate import Sampling, versions
from jedi.io.command_line import command_line
from jedi.io.files import locked

ENCODER = str(Path(__file__).resolve().parents[2] / "models" / "emoji-clip")
ROWS = ("one_way:1", "one_way:2", "one_way:3", "mutual:2")
"""Mode and number of references of the model's rows."""
PARTS = ("references", "curves", "pairs", "edits", "diversity")
"""What is measured besides the main table."""
QUICK_ROWS, QUICK_SUBJECTS, QUICK_STEPS = ("one_way:2",), 30, 15


@dataclass(frozen=True)
class ToyRequest:
    """What is to be measured, and how."""

    data: str
    out: str
    model: str = options.DEFAULT_MODEL
    files: tuple[str | None, str | None, str | None] = (None, None, None)
    """The model's revision, variant and ``model_config``, as :func:`jedi.loading.load_pipeline` takes them."""
    encoder: str = ENCODER
    rows: tuple[str, ...] = ROWS
    parts: tuple[str, ...] = PARTS
    subjects: int = 100
    """Of the 100 of the gallery, so many are asked for."""
    sampling: Sampling = Sampling()  # noqa: RUF009 (frozen)
    caption_references: bool = False
    seed: int = 0
    dtype: str = "float32"
    device: str | None = None
    batch_size: int = 16
    samples: int = 2000
    command: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    add = parser.add_argument
    text = "shards with held-out subjects (python -m data_gen run --config configs/data_gen/benchmark.yaml)"
    add("--data", required=True, metavar="DIR", help=text)
    add("--out", required=True, metavar="DIR", help="the folder to write")
    text = f"one row, {QUICK_SUBJECTS} subjects, {QUICK_STEPS} steps, nothing else: a minute or two, during training"
    add("--quick", action="store_true", help=text)
    add("--rows", nargs="+", metavar="MODE:REFERENCES", help=f"rows of the model ({' '.join(ROWS)})")
    add("--parts", nargs="*", choices=PARTS, help=f"what is measured besides ({' '.join(PARTS)})")
    add("--subjects", type=int, metavar="N", help="subjects asked for; recognised among 100 in any case (100)")
    add("--caption-references", action="store_true", help="two subjects: each reference comes with its caption")
    add("--encoder", default=ENCODER, metavar="DIR", help="the judge (models/emoji-clip)")
    add("--device", metavar="D", help="cpu, cuda, cuda:1, mps, ... (cuda if there is one)")
    add("--samples", type=int, default=2000, metavar="N", help="of the bootstrap, by subjects (2000)")
    options.add_model_options(parser)
    parser.set_defaults(batch_size=16)


def request_from(arguments: argparse.Namespace) -> ToyRequest:
    """The request. Raises ``InputError`` for what makes no sense."""
    check_options(arguments, check_count, "subjects", "samples")
    sampling = options.sampling_of(arguments)
    rows = tuple(arguments.rows or (QUICK_ROWS if arguments.quick else ROWS))
    if sampling.mode is not None:
        rows = tuple(dict.fromkeys(f"{sampling.mode}:{row.rpartition(':')[2]}" for row in rows))
    if arguments.quick and sampling.steps is None:
        sampling = replace(sampling, steps=QUICK_STEPS)
    parts = arguments.parts if arguments.parts is not None else () if arguments.quick else PARTS
    changes = {
        "rows": rows,
        "parts": tuple(parts),
        "subjects": arguments.subjects or (QUICK_SUBJECTS if arguments.quick else 100),
        "files": (arguments.revision, arguments.variant, arguments.model_config),
        "sampling": replace(sampling, mode=None),
        "command": command_line("evaluate.py"),
    }
    return ToyRequest(**{field.name: getattr(arguments, field.name, None) for field in fields(ToyRequest)} | changes)


def run(arguments: argparse.Namespace) -> int:
    """Generates, scores, reports. Raises ``InputError`` for a mistake in the request."""
    from jedi.report.text import text_table
    from jedi_toy.benchmark.report import tables

    request = request_from(arguments)
    result = evaluate(request)
    for table in tables(result):
        print(text_table(table), end="\n\n")
    print(f"scores of each image: {Path(request.out) / 'scores.json'}; the report: {Path(request.out) / 'report.html'}")
    return 0


def evaluate(request: ToyRequest) -> dict[str, Any]:
    """Makes what is missing, scores all, writes ``scores.json`` and the report; returns what ``scores.json`` holds.

    Raises:
        InputError: data, encoder or model that cannot be used, or a folder that holds other images.
    """
    from jedi.io.files import file_sha256
    from jedi.loading import load_pipeline
    from jedi.report.page import check_place
    from jedi_toy.benchmark.cases import read_cases
    from jedi_toy.benchmark.edits import edit_cases
    from jedi_toy.benchmark.judge import Judge
    from jedi_toy.benchmark.report import summarise, write
    from jedi_toy.benchmark.rows import ToyRow, ToyRun, fewest_and_most, main_row, rows_beside
    from jedi_toy.encoder.network import SubjectEncoder

    check_place(request.out)
    rows = [ToyRow.parse(text) for text in request.rows]
    cases = read_cases(request.data)
    encoder = SubjectEncoder.load(request.encoder)
    pipe, digests = load_pipeline(request.model, request.device, request.dtype, *request.files)
    modes = list(pipe.config.trained_modes)
    skipped = [f"{row.label}: the model was trained for {', '.join(modes)}" for row in rows if row.mode not in modes]
    rows = [row for row in rows if row.mode in modes]
    if not rows:
        raise InputError(f"--rows {' '.join(request.rows)}: the model was trained for {', '.join(modes)}")
    parts = [part for part in PARTS if part in request.parts]
    few_and_many = fewest_and_most(rows, main_row(rows))
    if "references" in parts and not few_and_many:
        parts.remove("references")
        skipped.append("references: all rows of the main row's mode have the same number of references")
    if "pairs" in parts and len(cases.pairs) < 2:
        parts.remove("pairs")
        skipped.append(f"pairs: {request.data} holds no sets of two subjects")
    if "edits" in parts and not edit_cases(cases, 1):
        parts.remove("edits")
        skipped.append(f"edits: {request.data} holds no subject with room for another one, before a background of both")
    for reason in skipped:
        print(f"left out: {reason}", file=sys.stderr)
    out = Path(request.out)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        judge = Judge(encoder, cases)
        given = {key: getattr(request, key) for key in ToyRun.FROM_REQUEST}
        toy_run = ToyRun(pipe, digests, cases, judge, main_row(rows), out, **given)
        result: dict[str, Any] = {
            "format": 1,
            "benchmark": "toy",
            "model": {"name": request.model, "sha256": digests},
            "judge": {
                "name": encoder.name,
                "sha256": file_sha256(Path(request.encoder) / "model.safetensors"),
                "pose": judge.pose_oracle(),
            },
            "data": {"name": request.data, "fingerprint": cases.sets.index.fingerprint, "left_out": cases.left_out},
            "settings": toy_run.settings,
            "versions": versions(),
            "command": request.command,
            "skipped": skipped,
            "gallery": len(cases.single),
            "main": toy_run.main.name,
            "rows": toy_run.rows([*rows, *rows_beside(toy_run.main)]),
            **({"references": toy_run.references(few_and_many)} if "references" in parts else {}),
            **{part: getattr(toy_run, part)() for part in parts if part != "references"},
        }
        result["summary"] = summarise(result, request.samples)
        write(result, toy_run, out, __doc__)
    return result
