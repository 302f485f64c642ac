"""Images, real images and prompts -> scores for each image, means with intervals. For any method's images.

Work is done subject by subject. A subject's scores are a file that stands whole or not at all and says what it was
made from (images, references, prompts, encoders); when nothing of that has changed it is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from jedi.errors import InputError
from jedi.evaluation.statistics import ConfidenceInterval, bootstrap
from jedi.io.files import file_sha256, write_text
from jedi.io.images import load_image
from jedi.io.ranges import batches

if TYPE_CHECKING:
    from torch import Tensor


DEFAULT_ENCODERS = ("clip:openai/clip-vit-base-patch32", "dino:facebook/dino-vits16")
"""The field's: CLIP ViT-B/32 and DINO ViT-S/16."""
MODEL, WITHOUT, COPIED, ORACLE = "model", "no_reference", "copy", "oracle"
"""Rows: the method; the same without references; the reference returned as it is; real images."""
COPY = "copy"
"""The name of the copy score."""
VERSION = 1
"""Of the scores' definitions: another number makes all scores anew."""


@dataclass(frozen=True)
class ScoredImage:
    """An image that is scored."""

    id: str
    """Its name, unique among the images of its row."""
    row: str
    """The row of the table to which it counts: a method, "oracle", "copy", ..."""
    image: Path
    prompt: str | None = None
    """What it should show, without an identifier; ``None``: there is no text score."""
    leave_out: bool = False
    """It is one of the real images, and is not compared with itself."""


@dataclass(frozen=True)
class ScoredSubject:
    """A subject, its images, and what is scored against them."""

    subject: str
    real: tuple[Path, ...]
    """All its real images."""
    references: tuple[Path, ...]
    """Those of ``real`` that the method was given."""
    cases: tuple[ScoredImage, ...]


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder and the names of its scores."""

    kind: str
    """As in the specification: "clip", "dino", ..."""
    network: Any
    identity: str | None
    """The name of its identity score, as "DINO ViT-S/16"; ``None`` if it compares no images."""
    text: str | None
    """As "CLIP-T ViT-B/32"; ``None`` if it reads no text."""
    sha256: str

    @property
    def columns(self) -> list[str]:
        """Its scores, in the order of tables: each aggregation of identity, then the text score."""
        identities = [identity_column(self.identity, x) for x in ("all_real", "references")] if self.identity else []
        return identities + ([self.text] if self.text else [])


def identity_column(name: str, aggregation: str) -> str:
    """The name of an identity score with its aggregation (see :data:`jedi.metrics.AGGREGATIONS`)."""
    return f"{name}, {'all real' if aggregation == 'all_real' else 'references'}"


def load_encoders(specs: Sequence[str], device: str = "cpu") -> list[Encoder]:
    """The encoders that the specifications name (see :func:`jedi.metrics.load_encoder`).

    Raises:
        EncoderError: as there. InputError: two encoders whose scores would have one name.
    """
    from jedi.io.quiet import quiet
    from jedi.loading import weights_sha256
    from jedi.metrics import load_encoder

    quiet(logging.ERROR)
    encoders: list[Encoder] = []
    seen: set[str] = set()
    for spec in specs:
        network, kind = load_encoder(spec, device), spec.partition(":")[0]
        of = network.name.removeprefix("CLIP ")
        identity = f"CLIP-I {of}" if kind == "clip" else network.name
        text = f"CLIP-T {of}" if kind == "clip" else None
        if kind == "blip-itm":
            identity, text = None, network.name
        encoder = Encoder(kind, network, identity, text, weights_sha256(network.model))
        if clash := seen.intersection(encoder.columns):
            raise InputError(f"--encoders {spec}: another encoder has the score {sorted(clash)[0]!r} already; take one")
        seen.update(encoder.columns)
        encoders.append(encoder)
    return encoders


def columns_of(encoders: Sequence[Encoder]) -> list[str]:
    """All scores in the order of tables: those of each encoder, then the copy score."""
    return [*(column for encoder in encoders for column in encoder.columns), COPY]


def score_all(
    groups: Sequence[ScoredSubject], encoders: Sequence[Encoder], folder: str | Path, batch_size: int = 32
) -> list[dict[str, Any]]:
    """The scores of all cases, one record each: ``id``, ``row``, ``subject``, ``prompt``, ``image``, ``scores``.

    ``folder/SUBJECT.json`` keeps those of a subject; what stands there and still fits is not made again.

    Raises:
        ImageError: an image cannot be read.
    """
    folder, records = Path(folder), []
    with tqdm(total=sum(len(group.cases) for group in groups), desc="scores", file=sys.stderr) as bar:
        for group in groups:
            path = folder / f"{group.subject}.json"
            key = _key(group, encoders)
            found = _read(path, key)
            if found is None:
                found = score(group, encoders, batch_size)
                text = json.dumps({"format": 1, "key": key, "images": found}, indent=1, ensure_ascii=False)
                write_text(path, text + "\n")
            records += found
            bar.update(len(group.cases))
    return records


def score(group: ScoredSubject, encoders: Sequence[Encoder], batch_size: int = 32) -> list[dict[str, Any]]:
    """The scores of one subject's cases.

    A score that has no meaning for a case is absent: the text score without a prompt, an identity score without
    a real image to compare with.
    """
    if unknown := [path for path in group.references if path not in group.real]:
        raise ValueError(f"{group.subject}: the reference {unknown[0]} is not among its real images")
    images = list(dict.fromkeys([*group.real, *(case.image for case in group.cases)]))
    place = {image: i for i, image in enumerate(images)}
    scores: list[dict[str, float]] = [{} for _ in group.cases]
    for encoder in encoders:
        if encoder.identity is not None:
            embeddings = _embed_images(encoder.network, images, batch_size)
            of_cases = embeddings[[place[case.image] for case in group.cases]]
            _add_identity(scores, group, encoder, of_cases, embeddings[: len(group.real)])
        if encoder.text is not None:
            _add_text(scores, group, encoder, None if encoder.identity is None else of_cases, batch_size)
    _add_copy(scores, group)
    return [
        {
            "id": case.id,
            "row": case.row,
            "subject": group.subject,
            "prompt": case.prompt,
            "image": "/".join(case.image.parts[-2:]),
            "scores": {name: round(value, 6) for name, value in found.items()},
        }
        for case, found in zip(group.cases, scores, strict=True)
    ]


def aggregate(
    records: Sequence[Mapping[str, Any]], columns: Sequence[str], samples: int = 2000
) -> dict[str, dict[str, ConfidenceInterval]]:
    """Mean and bootstrap interval, by subjects, of each score of each row; scores that a row lacks are absent."""
    result: dict[str, dict[str, ConfidenceInterval]] = {}
    for row in dict.fromkeys(record["row"] for record in records):
        result[row] = {}
        for column in columns:
            found = [x for x in records if x["row"] == row and column in x["scores"]]
            if found:
                values = [x["scores"][column] for x in found]
                result[row][column] = bootstrap(values, [x["subject"] for x in found], samples)
    return result


def by_subject(records: Sequence[Mapping[str, Any]], row: str, columns: Sequence[str]) -> dict[str, dict[str, float]]:
    """The mean of each score of a row for each subject."""
    result: dict[str, dict[str, float]] = {}
    for record in (x for x in records if x["row"] == row):
        result.setdefault(record["subject"], {})
    for subject, means in result.items():
        mine = [x["scores"] for x in records if x["row"] == row and x["subject"] == subject]
        for column in columns:
            values = [scores[column] for scores in mine if column in scores]
            if values:
                means[column] = math.fsum(values) / len(values)
    return result


def _embed_images(network: Any, images: Sequence[Path], batch_size: int) -> Tensor:
    """``[n d]``; a batch of images is in memory at a time."""
    import torch

    parts = ([load_image(image) for image in batch] for batch in batches(images, batch_size))
    return torch.cat([network.embed_images(part) for part in parts])


def _add_identity(
    scores: list[dict[str, float]], group: ScoredSubject, encoder: Encoder, images: Tensor, real: Tensor
) -> None:
    """``images`` ``[n d]`` of the cases and ``real`` ``[r d]``, both in the group's order."""
    from jedi import metrics

    assert encoder.identity is not None
    references = [i for i, path in enumerate(group.real) if path in group.references]
    together = [i for i, case in enumerate(group.cases) if not case.leave_out]
    # (cases, real images that they are compared with): one entry for all generated ones, one for each real one.
    parts = [(together, list(range(len(real))))] if together else []
    for i, case in enumerate(group.cases):
        if case.leave_out:
            parts.append(([i], [k for k, path in enumerate(group.real) if path != case.image]))
    for cases, others in parts:
        if not others:
            continue
        for aggregation in metrics.AGGREGATIONS:
            given = [others.index(k) for k in references if k in others]
            if aggregation == "references" and not given:
                continue
            values = metrics.identity_score(images[cases], real[others], given, aggregation)
            for i, value in zip(cases, values.tolist(), strict=True):
                scores[i][identity_column(encoder.identity, aggregation)] = value


def _add_text(
    scores: list[dict[str, float]], group: ScoredSubject, encoder: Encoder, images: Tensor | None, batch_size: int
) -> None:
    """``images``: embeddings of the cases if the encoder makes such; a matcher reads the images."""
    from jedi import metrics

    assert encoder.text is not None
    prompts = {i: case.prompt for i, case in enumerate(group.cases) if case.prompt is not None}
    cases = list(prompts)
    if not cases:
        return
    if images is not None:
        distinct = list(dict.fromkeys(prompts.values()))
        texts = encoder.network.embed_texts(distinct)
        values = metrics.clip_t(images[cases], texts[[distinct.index(x) for x in prompts.values()]]).tolist()
    else:
        values = []
        for part in batches(cases, batch_size):
            loaded = [load_image(group.cases[i].image) for i in part]
            values += metrics.blip_itm(encoder.network, loaded, [prompts[i] for i in part]).tolist()
    for i, value in zip(cases, values, strict=True):
        scores[i][encoder.text] = value


def _add_copy(scores: list[dict[str, float]], group: ScoredSubject) -> None:
    """How nearly each image is one of the references; a reference itself is compared with the others."""
    from jedi.metrics import copy_score

    references = {path: load_image(path) for path in group.references}
    seen: dict[tuple[Path, bool], float] = {}
    for case, found in zip(group.cases, scores, strict=True):
        others = [image for path, image in references.items() if not (case.leave_out and path == case.image)]
        if not others:
            continue
        if (case.image, case.leave_out) not in seen:
            seen[case.image, case.leave_out] = copy_score([load_image(case.image)], others).item()
        found[COPY] = seen[case.image, case.leave_out]


def _key(group: ScoredSubject, encoders: Sequence[Encoder]) -> str:
    """A digest of all that the scores of a subject depend on."""
    digests = {image: file_sha256(image) for image in dict.fromkeys([*group.real, *(x.image for x in group.cases)])}
    content = {
        "version": VERSION,
        "encoders": [[encoder.kind, encoder.network.name, encoder.sha256] for encoder in encoders],
        "real": [[image.name, digests[image], image in group.references] for image in group.real],
        "cases": [[x.id, x.row, digests[x.image], x.prompt, x.leave_out] for x in group.cases],
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _read(path: Path, key: str) -> list[dict[str, Any]] | None:
    """The scores that stand there, if they were made from the same things."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found["images"] if found["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
