"""Editing, as the toy benchmark asks for it: a held-out subject is painted over another one.

The scene is the target image of one case; its subject's box (grown a little) is the mask; the subject to be painted
in is another case's. Two things are measured. *Outside of the mask*: the finished image must be the scene, pixel by
pixel; and since it is pasted together, the decoder's own image beside it, against the VAE's plain reconstruction of
the scene: nothing but the VAE may have changed anything there. *Inside*: is the right subject recognised?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from jedi.evaluation.generate import ImageRequest, Sampling, missing, seed_of, write_plan
from jedi.inpainting import Inpainting
from jedi.io.images import Box, fit, load_image, save_png, to_pil, to_tensor
from jedi.pipeline import JediPipeline
from jedi.rng import seeded_generator
from jedi.vae import decode_latents, encode_pixels
from jedi_toy.benchmark.cases import ToyCase, ToyCases
from jedi_toy.benchmark.judge import Judge, Scores, cut_out, psnr

GROWTH = 2
"""Pixels by which the mask is larger than the box of the subject that has to go."""
REST = 1 / 8
"""On one side at least, this share of the image stays outside of the mask: there must be something to be kept."""
EQUAL = 99.0
"""Stands for the infinite dB of equal images, which JSON cannot say."""


@dataclass(frozen=True)
class EditCase:
    """``case``'s subject goes where ``scene``'s stands."""

    case: ToyCase
    scene: ToyCase
    member: int
    """The image of the subject whose caption is the prompt: it has the scene's background."""
    prompt: str

    @property
    def id(self) -> str:
        return f"{self.case.id}-over-{self.scene.id}"

    @property
    def drawing(self) -> str:
        """That of the subject painted in."""
        return self.case.drawing


def edit_cases(cases: ToyCases, count: int) -> list[EditCase]:
    """Up to ``count``: each subject with the first one after it that leaves it enough room, but not the whole image,
    and stands before a background on which there is an image of the former too: its caption is the prompt."""
    made: list[EditCase] = []
    for place, case in enumerate(cases.single):
        record = cases.sets.record(case.index)
        own = {
            image["background"]: i
            for i, image in enumerate(record["images"])
            if i not in case.references and "name" not in image["caption_says"]
        }
        size = cases.image(case, case.target).size
        for scene in cases.single[place + 1 :] + cases.single[:place]:
            member = own.get(scene.background)
            if member is None or not _holds(scene.box, record["images"][member]["box"]):
                continue
            edit = EditCase(case, scene, member, record["captions"][member])
            if len(made) < count and _leaves_some(region_of(edit, size), size):
                made.append(edit)
                break
    return made


def _leaves_some(region: Box, size: tuple[int, int]) -> bool:
    (left, top, right, bottom), (width, height) = region, size
    return max(left, width - right) >= REST * width or max(top, height - bottom) >= REST * height


def _holds(outer: Box, inner: Sequence[int]) -> bool:
    """Whether ``inner`` lies in ``outer``, but for the pixels by which the mask grows."""
    left, top, right, bottom = (x - y for x, y in zip(inner, outer, strict=True))
    return min(left, top) >= -GROWTH and max(right, bottom) <= GROWTH


def region_of(edit: EditCase, size: tuple[int, int]) -> Box:
    """The mask's box in an image of ``size``."""
    left, top, right, bottom = edit.scene.box
    return max(0, left - GROWTH), max(0, top - GROWTH), min(size[0], right + GROWTH), min(size[1], bottom + GROWTH)


def mask_of(edit: EditCase, size: tuple[int, int]) -> Image.Image:
    """White in the region, black outside."""
    mask = Image.new("L", size, 0)
    mask.paste(255, region_of(edit, size))
    return mask


def make_edits(
    pipe: JediPipeline,
    edits: Sequence[EditCase],
    cases: ToyCases,
    folder: Path,
    *,
    references: int,
    settings: Sampling,
    model: Mapping[str, str],
    seed: int,
) -> None:
    """Makes those that are missing: ``images/ID.png``, the finished image, and ``decoded/ID.png``, before it was
    pasted into the scene. Sampled once, so not by `generation.generate`, but with a plan of the same form."""
    items = []
    for edit in edits:
        scene = cases.image(edit.scene, edit.scene.target)
        given = cases.references(edit.case, references)
        mask = mask_of(edit, scene.size)
        items.append(ImageRequest(edit.id, (edit.prompt,), given, seed_of(seed, edit.id), image=scene, mask=mask))
    write_plan(pipe, items, folder, settings=settings, model=model)
    todo = missing(folder, items)
    for item in tqdm(todo, desc="edits", initial=len(items) - len(todo), total=len(items), leave=False):
        latents = pipe(
            item.prompts[0],
            references=list(item.references),
            image=item.image,
            mask_image=item.mask,
            num_inference_steps=settings.steps,
            guidance=settings.guidance,
            guidance_scale=settings.guidance_scale,
            image_guidance_scale=settings.image_guidance_scale,
            mode=settings.mode,
            generator=[seeded_generator(item.seed)],
            output_type="latent",
        ).images
        with torch.no_grad():
            decoded = decode_latents(pipe.vae, latents).float().clamp(-1, 1)
            edit = Inpainting.prepare(item.image, item.mask, pipe.image_size, pipe.vae, latents.device)
        save_png(to_pil(decoded)[0], folder / "decoded" / f"{item.id}.png")
        save_png(to_pil(edit.paste(decoded))[0], folder / "images" / f"{item.id}.png")


@torch.no_grad()
def score_edits(
    pipe: JediPipeline, judge: Judge, edits: Sequence[EditCase], cases: ToyCases, folder: Path
) -> list[Scores]:
    """For each edit: `subject` (recognised in the region), `likeness`, `kept` (all pixels outside of the mask are the
    scene's), and in dB against the scene, outside: `decoded` (the model's own image) and `vae`."""
    finished = [load_image(folder / "images" / f"{edit.id}.png") for edit in edits]
    inside = [cut_out(image, region_of(edit, image.size)) for edit, image in zip(edits, finished, strict=True)]
    scores = []
    for edit, image, found in zip(edits, finished, _inside(judge, edits, inside), strict=True):
        scene = cases.image(edit.scene, edit.scene.target)
        prepared = Inpainting.prepare(scene, mask_of(edit, scene.size), pipe.image_size, pipe.vae, pipe.device)
        height, width = pipe.image_size
        whole = fit(scene, width, height)[0]
        pixels = encode_pixels(pipe.vae, to_tensor([whole]).to(pipe.device))
        plain = to_pil(decode_latents(pipe.vae, pixels).float())[0]
        decoded = load_image(folder / "decoded" / f"{edit.id}.png")
        around = outside(prepared, pipe.image_size)
        found["kept"] = float(math.isinf(psnr(image, scene, prepared.alpha[0, 0].cpu() == 0)))
        found |= {"decoded": min(psnr(decoded, whole, around), EQUAL), "vae": min(psnr(plain, whole, around), EQUAL)}
        scores.append(found)
    return scores


def real_edits(judge: Judge, edits: Sequence[EditCase], cases: ToyCases, member: bool) -> list[Scores]:
    """The inside of real images: the subject's own image (``member``), or the scene as it was."""
    cut = []
    for edit in edits:
        if member:
            box = tuple(cases.sets.record(edit.case.index)["images"][edit.member]["box"])
            cut.append(cut_out(cases.image(edit.case, edit.member), box))
        else:
            scene = cases.image(edit.scene, edit.scene.target)
            cut.append(cut_out(scene, region_of(edit, scene.size)))
    return _inside(judge, edits, cut)


def _inside(judge: Judge, edits: Sequence[EditCase], cut: Sequence[Image.Image]) -> list[Scores]:
    right, likeness = judge.identity(judge.encoder.embed_images(cut), [edit.case.id for edit in edits])
    return [{"subject": a, "likeness": b} for a, b in zip(right, likeness, strict=True)]


def outside(edit: Inpainting, size: tuple[int, int]) -> Tensor:
    """Where nothing was generated: bool ``[H W]`` at the model's size. A latent pixel that the mask touches was."""
    factor = size[1] // edit.mask.shape[-1]
    return edit.mask[0, 0].cpu().repeat_interleave(factor, 0).repeat_interleave(factor, 1) == 0
