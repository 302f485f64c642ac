"""``evaluate.py scores``: scores and a report for images that lie there already, by any method.

``--images`` and ``--references`` are folders of images of one subject, or of folders, one for each subject, with
the same names in both. The prompts are a text file, a line for each image in the order of their names (subject after
subject), or JSON: ``{"SUBJECT/a.png": "a dog on the beach", ...}``, or a ``samples.json`` of sample.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jedi.checks import check_count, check_options
from jedi.errors import InputError, given
from jedi.evaluation.commands import options
from jedi.evaluation.score import COPIED, MODEL, ORACLE, ScoredImage, ScoredSubject, load_encoders, score_all
from jedi.io.command_line import command_line
from jedi.io.config import import_extensions
from jedi.io.files import file_sha256, locked
from jedi.io.images import SUFFIXES, find_images
from jedi.io.texts import read_json, read_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the subcommand."""
    add = parser.add_argument
    add("--images", required=True, metavar="DIR", help="images, or a folder of them for each subject")
    add("--references", required=True, metavar="DIR", help="what the method was given: likewise")
    add("--real", metavar="DIR", help="more real images of them, for the average over all real: likewise")
    add("--prompts", metavar="F", help="a line for each image, or JSON, or samples.json; without: no text score")
    add("--identifier", default="", metavar="WORD", help="is dropped from the prompts, as CLIP-T requires")
    add("--label", metavar="TEXT", help="the method's name in tables (the folder's name)")
    add("--out", required=True, metavar="DIR", help="the folder to write")
    options.add_scoring_options(parser)
    add("--extensions", nargs="+", default=[], metavar="MODULE", help="Python modules that add encoders")


def run(arguments: argparse.Namespace) -> int:
    """Scores and reports. Raises ``InputError`` for a mistake in the request."""
    from jedi.report.page import check_place

    check_options(arguments, check_count, "samples")
    import_extensions(arguments.extensions)
    out = Path(arguments.out)
    check_place(out, images=arguments.images, references=arguments.references, real=arguments.real)
    groups = read_groups(
        Path(arguments.images),
        Path(arguments.references),
        None if arguments.real is None else Path(arguments.real),
        None if arguments.prompts is None else Path(arguments.prompts),
        arguments.identifier,
    )
    from jedi.evaluation import score_report
    from jedi.io.devices import find_device

    encoders = load_encoders(arguments.encoders, find_device(arguments.device))
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        records = score_all(groups, encoders, out / "scores")
    label = arguments.label or score_report.label_of(str(Path(arguments.images).resolve()))
    result: dict[str, Any] = {"format": 1, "benchmark": None, "deviations": []}
    result |= score_report.result_of(records, encoders, label, arguments.samples)
    path = score_report.report(result, groups, out, command_line("evaluate.py"))
    print(f"scores of each image: {out / 'scores.json'}; the report: {path}")
    return 0


def read_groups(
    images: Path, references: Path, real: Path | None = None, prompts: Path | None = None, identifier: str = ""
) -> list[ScoredSubject]:
    """What is scored against what, subject by subject.

    Raises:
        InputError: folders that do not fit one another, prompts for other images than those that are there.
    """
    from jedi.metrics import drop_identifier

    made = _by_subject(images, "--images")
    texts = {} if prompts is None else read_prompts(prompts, images, [x for files in made.values() for x in files])
    groups = []
    for subject, files in made.items():
        given = _of_subject(references, subject, images, "--references")
        others = [] if real is None else _of_subject(real, subject, images, "--real")
        digests = {file_sha256(path) for path in given}
        others = [path for path in others if file_sha256(path) not in digests]
        name = subject or images.resolve().name
        found = [(path.relative_to(images).as_posix(), path) for path in files]
        if prompts is not None and prompts.suffix.lower() == ".json":
            found = [(id, path) for id, path in found if id in texts]
        prompt_of = lambda id: drop_identifier(texts[id], identifier) if id in texts else None
        cases = [ScoredImage(id, MODEL, path, prompt_of(id)) for id, path in found]
        wanted = list(dict.fromkeys(case.prompt for case in cases))
        cases += [ScoredImage(f"{name}/{i:02}", COPIED, given[0], prompt) for i, prompt in enumerate(wanted)]
        cases += [ScoredImage(path.name, ORACLE, path, leave_out=True) for path in (*given, *others)]
        if found:
            groups.append(ScoredSubject(name, (*given, *others), tuple(given), tuple(cases)))
    return groups


def read_prompts(file: Path, images: Path, files: Sequence[Path]) -> Mapping[str, str]:
    """The prompt of each image, by its place in ``images``. Raises ``InputError`` if they do not fit."""
    ids = [path.relative_to(images).as_posix() for path in files]
    if file.suffix.lower() != ".json":
        with given(name := f"--prompts {file}"):
            lines = read_lines(file, name)
        if len(lines) != len(ids):
            raise InputError(f"--prompts {file}: {len(lines)} lines, but {images} holds {len(ids)} images; one each")
        return dict(zip(ids, lines, strict=True))
    with given(name := f"--prompts {file}"):
        found = read_json(file, name)
    try:
        if isinstance(found.get("images"), list):  # sample.py's record
            found = {x["file"]: x["prompt"] for x in found["images"]}
        right = all(isinstance(x, str) for pair in found.items() for x in pair)
    except (AttributeError, KeyError, TypeError):
        right = False
    if not right or not found:
        raise InputError(f'--prompts {file}: expected {{"IMAGE": "PROMPT", ...}} or a samples.json of sample.py')
    if lost := sorted(set(found) - set(ids)):
        raise InputError(f"--prompts {file}: {images} holds no {lost[0]} ({len(lost)} such names)")
    if left := [id for id in ids if id not in found]:
        print(f"evaluate.py: without a prompt and left out: {', '.join(left[:5])} ({len(left)})", file=sys.stderr)
    return found


def _by_subject(folder: Path, option: str) -> dict[str, list[Path]]:
    """Images by subject; "" where they lie in the folder itself."""
    if not folder.is_dir():
        raise InputError(f"{option} {folder}: no such folder")
    inside = sorted(x for x in folder.iterdir() if not x.name.startswith("."))
    if any(x.is_file() and x.suffix.lower() in SUFFIXES for x in inside):
        return {"": find_images([folder])[0]}
    folders = [x for x in inside if x.is_dir()]
    if not folders:
        raise InputError(f"{option} {folder}: neither images nor folders of images")
    return {x.name: find_images([x])[0] for x in folders}


def _of_subject(folder: Path, subject: str, images: Path, option: str) -> list[Path]:
    place = folder / subject
    if not place.is_dir():
        beside = f", but {images / subject} is a subject" if subject else ""
        raise InputError(f"{option} {place}: no such folder{beside}")
    return find_images([place])[0]
