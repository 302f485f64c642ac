"""The toy benchmark's verdicts: what the encoder sees in an image, against what was asked for.

Every score is 0 to 1 (cosines -1 to 1), higher is better but for `copy`. ``None``: the question makes no sense for this
image, and it does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from jedi.io.images import Box, to_rgb
from jedi.metrics import clip_t, copy_score, cosine, diversity, retrieval_accuracy
from jedi_toy.benchmark.cases import PairCase, ToyCase, ToyCases
from jedi_toy.encoder.network import SubjectEncoder

SYMMETRIC = 8.0
"""A subject that differs from itself in another pose by less (mean difference of its pixels, 0 to 255) has no pose."""
TILTS = (9.0, 17.0, 25.0)
"""Degrees by which a tilted subject may be tilted."""
QUARTERS = (0.0, 90.0, 180.0, 270.0)
"""Degrees by which a subject is turned that stands, lies or stands on its head."""
MARGIN = 0.05
"""Around a subject's box when it is cut out, as a share of the box's side."""

Scores = dict[str, float | None]


class Judge:
    """Scores images of single subjects; the gallery is that of all cases, also where only some are asked."""

    def __init__(self, encoder: SubjectEncoder, cases: ToyCases) -> None:
        self.encoder, self.cases = encoder, cases
        gallery = [cases.image(case, member) for case in cases.single for member in case.gallery]
        self.gallery = encoder.embed_images(gallery).unflatten(0, (len(cases.single), -1))
        self.number = {case.id: i for i, case in enumerate(cases.single)}

    def identity(self, embedded: Tensor, subjects: Sequence[str]) -> tuple[list[float], list[float]]:
        """For images ``[n i]`` of ``subjects``: is the right one recognised among all, and the likeness to it."""
        labels = [self.number[subject] for subject in subjects]
        right = retrieval_accuracy(embedded, self.gallery, labels).tolist()
        likeness = [float(cosine(e[None], self.gallery[i]).mean()) for e, i in zip(embedded, labels, strict=True)]
        return right, likeness

    def score(self, cases: Sequence[ToyCase], images: Sequence[Image.Image]) -> list[Scores]:
        """One image a case.

        `subject`: recognised among all subjects of the gallery, by the mean cosine to each one's real images.
        `likeness`: that cosine to the right one. `background`: the probe's word is the one asked for. `pose`: by the
        pixels of the target (:func:`posed`). `prompt`: cosine to the caption. `copy`: the likeness of pixels to the
        most similar reference.
        """
        seen = self.encoder.read(images)
        texts = self.encoder.embed_texts([case.prompt for case in cases])
        right, likeness = self.identity(seen.subject, [case.id for case in cases])
        prompts = clip_t(seen.embedding, texts).tolist()
        scores = []
        for i, (case, image) in enumerate(zip(cases, images, strict=True)):
            target = self.cases.image(case, case.target)
            scores.append(
                {
                    "subject": right[i],
                    "likeness": likeness[i],
                    "background": float(seen.words["background"][i] == case.background),
                    "pose": posed(image, target, self.cases.sets.mask(case.index, case.target), case),
                    "prompt": prompts[i],
                    "copy": float(copy_score([image], self.cases.references(case))),
                }
            )
        return scores

    def pose_oracle(self) -> float:
        """How often :func:`posed` is right about real images other than the target: the mean of its shares among
        those in the target's pose and among those that stand upright instead."""
        verdicts: dict[bool, list[float]] = {True: [], False: []}
        for case in self.cases.single:
            target = self.cases.image(case, case.target)
            mask = self.cases.sets.mask(case.index, case.target)
            for member, image in enumerate(self.cases.sets.record(case.index)["images"]):
                if member == case.target or image["pose"] not in (case.pose, "upright"):
                    continue
                found = posed(self.cases.image(case, member), target, mask, case)
                if found is not None:
                    same = image["pose"] == case.pose
                    verdicts[same].append(float(found == same))
        return sum(sum(values) / len(values) for values in verdicts.values() if values) / 2

    def diversity(self, images: Sequence[Image.Image]) -> float:
        """How different images of one prompt are: the mean of 1 - cosine over their pairs (whole embeddings)."""
        return float(diversity(self.encoder.read(images).embedding))


class PairJudge:
    """Scores images of two subjects: each is cut out where it should be and recognised among all.

    The gallery has each subject as cut out of other real images of both, so queries and gallery are alike.
    """

    def __init__(self, encoder: SubjectEncoder, cases: ToyCases) -> None:
        self.encoder, self.cases = encoder, cases
        shown = [(case, *place) for case in cases.pairs for places in case.gallery for place in places]
        cut = [cut_out(cases.image(case, member), box) for case, member, box in shown]
        self.gallery = encoder.embed_images(cut).unflatten(0, (2 * len(cases.pairs), -1))
        self.number = {subject: i for i, subject in enumerate(x for case in cases.pairs for x in case.subjects)}

    def score(self, cases: Sequence[PairCase], images: Sequence[Image.Image]) -> list[Scores]:
        """One image a case: :func:`presence`, `background` by the probe, and `copy`."""
        crops = [cut_out(image, box) for case, image in zip(cases, images, strict=True) for box in case.boxes]
        embedded = self.encoder.embed_images(crops).unflatten(0, (len(cases), 2))
        words = self.encoder.read(images).words["background"]
        scores = []
        for i, case in enumerate(cases):
            likeness = cosine(embedded[i], self.gallery.flatten(0, 1)).unflatten(1, self.gallery.shape[:2]).mean(-1)
            found = presence(likeness, [self.number[subject] for subject in case.subjects])
            copied = copy_score([images[i]], self.cases.references(case))
            scores.append({**found, "background": float(words[i] == case.background), "copy": float(copied)})
        return scores


def presence(likeness: Tensor, subjects: Sequence[int]) -> Scores:
    """Whether two subjects are both there, from ``likeness`` ``[2 s]`` of the image's two places to all s subjects.

    `each`: the share of the two that are recognised where they should be; `both`: the minimum, 1 only if both are.
    `either way`: as `both`, but they may have changed places. ``subjects`` are the two right ones, place by place.
    """
    top = likeness.argmax(1).tolist()
    placed = [float(found == wanted) for found, wanted in zip(top, subjects, strict=True)]
    swapped = [float(found == wanted) for found, wanted in zip(top, reversed(subjects), strict=True)]
    return {"each": sum(placed) / 2, "both": min(placed), "either way": max(min(placed), min(swapped))}


def cut_out(image: Image.Image, box: Box, margin: float = MARGIN) -> Image.Image:
    """A square around ``box`` with a margin; where it leaves the image, the image's edge goes on."""
    left, top, right, bottom = box
    side = max(1, round(max(right - left, bottom - top) * (1 + 2 * margin)))
    x, y = round((left + right - side) / 2), round((top + bottom - side) / 2)
    pixels = np.asarray(to_rgb(image))
    rows = np.arange(y, y + side).clip(0, pixels.shape[0] - 1)
    columns = np.arange(x, x + side).clip(0, pixels.shape[1] - 1)
    return Image.fromarray(pixels[rows][:, columns])


def posed(image: Image.Image, target: Image.Image, mask: Image.Image, case: ToyCase, shift: int = 2) -> float | None:
    """1 if the subject in ``image`` has the pose of ``target``, 0 if it stands otherwise.

    ``image`` is compared with the target's subject (white in ``mask``) in several poses. For a mirrored one: as it
    is, and mirrored back. For one that lies or stands on its head: as it is, upright, and in the other quarter turns.
    For a tilted one: tilted to that side by its own angle and by ``TILTS`` (no prompt says how far), upright, and
    tilted to the other side. The nearest counts: by the mean absolute difference over the pixels of the subject so
    posed, the least over shifts of up to ``shift`` pixels. ``None`` for a subject that looks the same in another pose.
    """
    right = [(target, mask)]
    if case.pose == "mirrored":
        wrong = [(_mirrored(target, case.box), _mirrored(mask, case.box))]
    else:
        left, top, end, bottom = case.box
        centre, smooth = ((left + end) / 2, (top + bottom) / 2), Image.Resampling.BICUBIC
        turned = lambda angle: tuple(x.rotate(angle - case.angle, smooth, center=centre) for x in (target, mask))
        side = 1 if case.angle > 0 else -1
        if case.angle in QUARTERS:
            wrong = [turned(angle) for angle in QUARTERS if angle != case.angle]
        else:
            right += [turned(side * tilt) for tilt in TILTS]
            wrong = [turned(-side * tilt) for tilt in (0.0, *TILTS)]
    images = [np.asarray(image, dtype=np.float32) for image, _ in (*right, *wrong)]
    inside = [np.asarray(shape) >= 128 for _, shape in (*right, *wrong)]
    back = len(right)
    if np.abs(images[0] - images[back])[inside[0] | inside[back]].mean() < SYMMETRIC:
        return None
    seen = np.asarray(to_rgb(image), dtype=np.float32)
    moved = [np.roll(seen, (y, x), (0, 1)) for y in range(-shift, shift + 1) for x in range(-shift, shift + 1)]
    distances = [
        min(np.abs(other - image)[where].mean() for other in moved) for image, where in zip(images, inside, strict=True)
    ]
    return float(int(np.argmin(distances)) < len(right))


def _mirrored(image: Image.Image, box: Box) -> Image.Image:
    image = image.copy()
    image.paste(ImageOps.mirror(image.crop(box)), box)
    return image


def psnr(a: Image.Image, b: Image.Image, where: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images where ``where`` (bool ``[H W]``) is; infinite if equal."""
    x, y = (torch.from_numpy(np.asarray(to_rgb(image), dtype=np.float64)) for image in (a, b))
    if not where.any():
        raise ValueError("there is no pixel to compare: the mask covers the image")
    error = (x - y)[where].square().mean()
    return float(10 * torch.log10(255**2 / error)) if error else float("inf")
