"""The toy benchmark's rows: images for its cases by the model, and what stands beside it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from jedi.attention import ATTENTION_MODES
from jedi.errors import InputError
from jedi.evaluation.baselines import UntrainedCoupling
from jedi.evaluation.generate import ImageRequest, Sampling, generate, image_paths, seed_of
from jedi.io.images import load_image
from jedi.pipeline import JediPipeline
from jedi_toy.benchmark.cases import PairCase, ToyCase, ToyCases
from jedi_toy.benchmark.edits import edit_cases, make_edits, real_edits, score_edits
from jedi_toy.benchmark.judge import Judge, PairJudge

DIVERSITY = (20, 3)
"""Subjects, and images of each."""
NOISES = 3
"""Images of each subject where fewer and more references are compared."""
EDITS, PAIRS = 24, 40
CURVES = {"guidance_scale": (1.0, 4.0, 7.0), "image_guidance_scale": (1.0, 3.0)}
"""Values besides the model's own."""
CURVE_SUBJECTS = 25


@dataclass(frozen=True)
class ToyRow:
    """A row of the benchmark: one source of images for its cases."""

    name: str
    """Of its folder, and in ``scores.json``."""
    label: str
    kind: str
    """"model", "oracle", "copy", "none" (no reference) or "untrained"."""
    references: int = 0
    mode: str | None = None
    scales: Mapping[str, float] = field(default_factory=dict)
    """Guidance scales that differ from the request's."""

    @classmethod
    def parse(cls, text: str) -> ToyRow:
        """``"one_way:2"`` -> the model with two references. Raises ``InputError`` for anything else."""
        mode, _, count = text.partition(":")
        if not (re.fullmatch(r"\w+", mode) and count in ("1", "2", "3")):
            raise InputError(f"--rows {text}: expected MODE:REFERENCES with 1 to 3 references, as one_way:2")
        return cls(f"{mode}-{count}", f"{_spoken(mode)}, {_references(int(count))}", "model", int(count), mode)

    def record(self, cases: Sequence[Any], scores: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        """The row as ``scores.json`` has it: what it is, and the scores of each image."""
        images = [{"id": case.id, "drawing": case.drawing, **score} for case, score in zip(cases, scores, strict=True)]
        described = {"name": self.name, "label": self.label, "kind": self.kind, "references": self.references}
        return {**described, "mode": self.mode, **more, "images": images}


def main_row(rows: Sequence[ToyRow]) -> ToyRow:
    """The row that edits, curves and the like belong to: the first with two references, else the first."""
    return next((row for row in rows if row.references == 2), rows[0])


def fewest_and_most(rows: Sequence[ToyRow], main: ToyRow) -> list[ToyRow]:
    """The rows of the main one's mode with the fewest and with the most references; none where these are the same."""
    same = sorted((row for row in rows if row.mode == main.mode), key=lambda row: row.references)
    return [same[0], same[-1]] if same[0].references < same[-1].references else []


ORACLE = ToyRow("oracle", "oracle: the real image", "oracle")


def without_references(mode: str | None) -> ToyRow:
    return ToyRow("none", "no reference", "none", 0, mode)


def rows_beside(main: ToyRow) -> list[ToyRow]:
    """What always stands beside the model."""
    rows = [ORACLE, ToyRow("copy", "copy: the reference returned", "copy"), without_references(main.mode)]
    if ATTENTION_MODES.get(main.mode).cacheable:  # elsewhere references and targets read one another
        label = f"untrained coupling, {_references(main.references)}"
        rows.append(ToyRow(f"untrained-{main.references}", label, "untrained", main.references, main.mode))
    return rows


def _spoken(mode: str) -> str:
    return mode.replace("_", "-")


def _references(count: int) -> str:
    return f"{count} reference{'s' * (count != 1)}"


@dataclass
class ToyRun:
    """Makes what is missing of each row's images, below ``out``, and has them scored.

    ``model`` is the sha256 of the pipeline's parts, ``subjects`` the number of cases that are asked for.
    """

    pipe: JediPipeline
    model: Mapping[str, str]
    cases: ToyCases
    judge: Judge
    main: ToyRow
    out: Path
    subjects: int
    sampling: Sampling
    seed: int = 0
    batch_size: int = 16
    caption_references: bool = False
    shown: dict[str, tuple[Sequence[Any], dict[str, list[Image.Image]]]] = field(default_factory=dict)
    """Part -> its cases and, row by row, their images: for the report."""
    FROM_REQUEST: ClassVar = ("subjects", "sampling", "seed", "batch_size", "caption_references")

    @property
    def settings(self) -> dict[str, Any]:
        """What is sampled with, unless a row says otherwise."""
        asked = self.sampling
        return self.pipe.sampling_settings(
            asked.steps, asked.guidance, asked.guidance_scale, asked.image_guidance_scale
        )

    def rows(self, rows: Sequence[ToyRow]) -> list[dict[str, Any]]:
        """The main table: one image for each case."""
        cases = self._asked()
        self.shown["rows"] = (cases, {row.name: [x[0] for x in self._images(row, cases)] for row in rows})
        return [row.record(cases, self.judge.score(cases, self.shown["rows"][1][row.name])) for row in rows]

    def references(self, rows: Sequence[ToyRow]) -> list[dict[str, Any]]:
        """Few references and many, each subject with several noises: the same ones in all rows."""
        cases = [case for case in self._asked() for _ in range(NOISES)]
        made = [self._images(row, self._asked(), NOISES, "references") for row in rows]
        flat = [[image for each in images for image in each] for images in made]
        return [row.record(cases, self.judge.score(cases, x)) for row, x in zip(rows, flat, strict=True)]

    def diversity(self) -> list[dict[str, Any]]:
        """Several images of one prompt; beside them, real images of the subject in other scenes."""
        subjects, each = DIVERSITY
        cases = self._asked()[:subjects]
        real = ToyRow("oracle", "real images of the subject, other scenes", "oracle")
        scenes = [[self.cases.image(case, i) for i in case.gallery[:each]] for case in cases]
        return [
            row.record(cases, [{"diversity": self.judge.diversity(x)} for x in images])
            for row, images in ((self.main, self._images(self.main, cases, each)), (real, scenes))
        ]

    def curves(self) -> list[dict[str, Any]]:
        """The main row with other guidance scales and fewer subjects; the request's own scales come first."""
        cases, own = self._asked()[:CURVE_SUBJECTS], self.settings
        varied: list[tuple[ToyRow, str | None]] = [(self.main, None)]
        for key in CURVES if own["guidance"].startswith("three") else ["guidance_scale"]:
            for value in (x for x in CURVES[key] if x != own[key]):
                name = f"{self.main.name}-{key}-{value:g}"
                varied.append((replace(self.main, name=name, scales={key: value}), key))
        points = []
        for row, name in varied:
            images = self.shown["rows"][1][row.name] if name is None else [x[0] for x in self._images(row, cases)]
            scales = {key: own[key] for key in CURVES} | dict(row.scales)
            scores = self.judge.score(cases, images[: len(cases)])
            points.append(row.record(cases, scores, varied=name, scales=scales))
        return points

    def edits(self) -> list[dict[str, Any]]:
        """A subject painted over another one, with references and without."""
        edits = edit_cases(self.cases, min(EDITS, self.subjects))
        rows, shown = [], {}
        for row in (self.main, without_references(self.main.mode)):
            folder = self.out / "edits" / row.name
            print(f"{folder.relative_to(self.out)}: {row.label}", file=sys.stderr)
            make_edits(
                self.pipe, edits, self.cases, folder, references=row.references,
                settings=replace(self.sampling, mode=row.mode), model=self.model, seed=self.seed,
            )  # fmt: skip
            rows.append(row.record(edits, score_edits(self.pipe, self.judge, edits, self.cases, folder)))
            shown[row.name] = [load_image(folder / "images" / f"{edit.id}.png") for edit in edits]
        for row in (ORACLE, ToyRow("copy", "the scene as it was", "copy")):
            rows.append(row.record(edits, real_edits(self.judge, edits, self.cases, row.kind == "oracle")))
        self.shown["edits"] = (edits, shown)
        return rows

    def pairs(self) -> list[dict[str, Any]]:
        """Two subjects in one image, one reference of each."""
        cases = list(self.cases.pairs[: min(PAIRS, self.subjects)])
        judge, mode = PairJudge(self.judge.encoder, self.cases), self.main.mode
        ours = ToyRow(mode, f"{_spoken(mode)}, a reference of each", "model", 2, mode)
        rows, shown = [], {}
        for row in (ours, *rows_beside(self.main)[:3]):
            images = self._real(row, cases)
            if images is None:
                items = [self._pair_item(row, case) for case in cases]
                images = [x[0] for x in self._made(row, items, self.out / "pairs" / row.name)]
            rows.append(row.record(cases, judge.score(cases, images)))
            shown[row.name] = images
        self.shown["pairs"] = (cases, shown)
        return rows

    def _asked(self) -> list[ToyCase]:
        return list(self.cases.single[: self.subjects])

    def _images(
        self, row: ToyRow, cases: Sequence[ToyCase], each: int = 1, part: str = "images"
    ) -> list[list[Image.Image]]:
        """``each`` images for each of the cases, below the folder of ``part``; one where they are real."""
        if (real := self._real(row, cases)) is not None:
            return [[image] for image in real]
        items = []
        for case in cases:
            references = self.cases.references(case, row.references)
            for name in (case.id if i == 0 else f"{case.id}.{i}" for i in range(each)):
                items.append(ImageRequest(name, (case.prompt,), references, seed_of(self.seed, name)))
        made = self._made(row, items, self.out / part / (row.name if each == 1 else f"{row.name}-x{each}"))
        return [[x[0] for x in made[i : i + each]] for i in range(0, len(made), each)]

    def _real(self, row: ToyRow, cases: Sequence[ToyCase | PairCase]) -> list[Image.Image] | None:
        """The images of a row that are not made."""
        shown = {"oracle": lambda case: case.target, "copy": lambda case: case.references[0]}.get(row.kind)
        return None if shown is None else [self.cases.image(case, shown(case)) for case in cases]

    def _pair_item(self, row: ToyRow, case: PairCase) -> ImageRequest:
        request = ImageRequest(case.id, (case.prompt,), (), seed_of(self.seed, case.id))
        if not row.references:
            return request
        captions = self.cases.sets.record(case.index)["captions"]
        told = tuple(captions[i] for i in case.references) if self.caption_references else None
        return replace(request, references=self.cases.references(case), reference_prompts=told)

    def _made(self, row: ToyRow, items: Sequence[ImageRequest], folder: Path) -> list[list[Image.Image]]:
        pipe, model = self.pipe, dict(self.model)
        if row.kind == "untrained":
            pipe, model = UntrainedCoupling.of(self.pipe), {**model, "coupling": "untrained"}
        print(f"{folder.relative_to(self.out)}: {row.label}", file=sys.stderr)
        sampling = replace(self.sampling, mode=row.mode, **row.scales)
        generate(pipe, items, folder, settings=sampling, model=model, batch_size=self.batch_size)
        return [[load_image(path) for path in image_paths(folder, item)] for item in items]
