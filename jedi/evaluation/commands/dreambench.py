"""``evaluate.py dreambench``: the benchmark's images by a model, their scores, and a report.

Two stages. *generate* makes the images of a frozen plan in ``OUT/images/SUBJECT/PP-I.png`` (prompt PP, image I),
as an array of parts if one likes. *score* reads them and writes ``scores.json`` (a score for each image),
``report.html`` and ``report.json``. The report always includes: the real images (oracle), the reference
returned as it is (copy), and the model without references.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from jedi.checks import check_count, check_options
from jedi.errors import InputError
from jedi.evaluation.commands import options
from jedi.evaluation.dreambench import IMAGES, Benchmark, groups, plan, read_benchmark
from jedi.evaluation.generate import check_done, generate
from jedi.evaluation.score import load_encoders, score_all
from jedi.io.command_line import command_line, part_of
from jedi.io.files import locked

STAGES = ("all", "generate", "score")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="DreamBench (dataset of google/dreambooth) or DreamBench++")
    add("--out", required=True, metavar="DIR", help="the folder to write")
    add("--refs", type=int, default=1, choices=(1, 3), help="references: 1 (Kosmos-G's list) or 3 (ours) (1)")
    add("--reference-list", metavar="F", help='another list, JSON: {"SUBJECT": ["02.jpg", ...]}')
    add("--num-images-per-prompt", type=int, default=IMAGES, metavar="N", help=f"images a prompt ({IMAGES})")
    add("--subjects", nargs="+", metavar="NAME", help="only these, or a number: the first so many")
    add("--prompts", type=int, metavar="N", help="only the first so many prompts of each subject")
    add("--no-reference", type=int, default=1, metavar="N", help="images a prompt without references (1; 0: no row)")
    add("--identifier", default="", metavar="WORD", help="is put before the noun in the model's prompts")
    add("--stage", default="all", choices=STAGES, help="generate the images, score them, or all (all)")
    add("--part", metavar="I/N", help="generate only the I-th of N parts, I from 0; for arrays of tasks")
    add("--label", metavar="TEXT", help="the model's name in tables (its folder's name)")
    add("--beside", nargs="+", default=[], metavar="DIR", help="the --out of other runs, for table and curve")
    options.add_model_options(parser)
    options.add_scoring_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Generates, scores, reports. Raises ``InputError`` for a mistake in the request."""
    sampling = options.sampling_of(arguments)
    part = part_of(arguments.part)
    check_options(arguments, check_count, "num_images_per_prompt", "prompts", "samples")
    if arguments.no_reference < 0:
        raise InputError(f"--no-reference must be 0 or more, got {arguments.no_reference}")
    if arguments.part is not None and arguments.stage == "score":
        raise InputError("--part is for generating; scoring is one task, after all parts")
    from jedi.report.page import check_place

    check_place(arguments.out, data=arguments.data)
    benchmark = select(read_benchmark(arguments.data, arguments.refs, arguments.reference_list), arguments)
    items = plan(
        benchmark, arguments.num_images_per_prompt, arguments.no_reference, arguments.seed, arguments.identifier
    )
    scoring = arguments.stage != "generate" and arguments.part is None
    others = []
    if scoring:
        from jedi.evaluation import score_report
        from jedi.io.devices import find_device

        others = [score_report.read_scores(folder, benchmark.name) for folder in arguments.beside]
        # Before hours of generation: an encoder that cannot be loaded is known at once.
        encoders = load_encoders(arguments.encoders, find_device(arguments.device))
        benchmark = replace(benchmark, remarks=(*benchmark.remarks, *score_report.other_encoders(encoders)))
    if benchmark.remarks:
        print(f"This is not {benchmark.name}'s full protocol: {'; '.join(benchmark.remarks)}.")
    if arguments.stage != "score":
        from jedi.loading import load_pipeline

        pipe, digests = load_pipeline(
            arguments.model,
            arguments.device,
            arguments.dtype,
            arguments.revision,
            arguments.variant,
            arguments.model_config,
        )
        notes = {"model": arguments.model, "image size": list(pipe.image_size), "references": benchmark.references}
        generate(
            pipe, items, arguments.out,
            settings=sampling, model=digests, batch_size=arguments.batch_size, part=part, notes=notes,
        )  # fmt: skip
        del pipe
    if not scoring:
        which = "" if arguments.part is None else f" of part {arguments.part}"
        print(f"all images{which} are made: {Path(arguments.out) / 'images'}; score them with --stage score")
        return 0
    frozen = check_done(items, arguments.out)
    cases = groups(benchmark, arguments.out, arguments.num_images_per_prompt, arguments.no_reference)
    with locked(arguments.out):
        records = score_all(cases, encoders, Path(arguments.out) / "scores")
        label = arguments.label or score_report.label_of(frozen["notes"].get("model"))
        result = {
            "format": 1,
            "benchmark": benchmark.name,
            "references": benchmark.references,
            "reference_count": None if arguments.reference_list else str(arguments.refs),
            "full_protocol": not benchmark.remarks,
            "deviations": list(benchmark.remarks),
            "model": {"name": frozen["notes"].get("model"), "sha256": frozen["model"]},
            "settings": frozen["settings"],
            "versions": frozen["versions"],
            **score_report.result_of(records, encoders, label, arguments.samples),
        }
        command = command_line("evaluate.py")
        path = score_report.report(result, cases, arguments.out, command, benchmark, others)
    print(f"scores of each image: {Path(arguments.out) / 'scores.json'}; the report: {path}")
    return 0


def select(benchmark: Benchmark, arguments: argparse.Namespace) -> Benchmark:
    """What was asked for, with a remark for all that is not the full protocol.

    Raises ``InputError`` for a subject that is not there.
    """
    subjects, wanted, remarks = benchmark.subjects, arguments.subjects, list(benchmark.remarks)
    if wanted and len(wanted) == 1 and wanted[0].isdecimal():
        if not 0 < int(wanted[0]) <= len(subjects):
            raise InputError(f"--subjects {wanted[0]}: there are {len(subjects)}")
        subjects = subjects[: int(wanted[0])]
    elif wanted:
        names = {subject.name for subject in subjects}
        if unknown := [name for name in wanted if name not in names]:
            raise InputError(f"--subjects {unknown[0]}: not in {arguments.data}, which has {', '.join(sorted(names))}")
        subjects = tuple(subject for subject in subjects if subject.name in wanted)
    if len(subjects) < len(benchmark.subjects):
        remarks.append(f"{len(subjects)} of {len(benchmark.subjects)} subjects")
    most = max(len(subject.templates) for subject in subjects)
    if arguments.prompts is not None and arguments.prompts < most:
        subjects = tuple(replace(x, templates=x.templates[: arguments.prompts]) for x in subjects)
        remarks.append(f"{arguments.prompts} of {most} prompts a subject")
    if arguments.num_images_per_prompt != IMAGES:
        plural = "s" * (arguments.num_images_per_prompt > 1)
        remarks.append(f"{arguments.num_images_per_prompt} image{plural} a prompt, not {IMAGES}")
    return replace(benchmark, subjects=subjects, remarks=tuple(remarks))
