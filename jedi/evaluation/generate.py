"""Images made by a frozen plan: resumable, in parts, the same in any batch.

``plan.json`` is written first: what is to be made, from which references, by which weights, with which settings. An
image is done when ``images/ID.png`` is there; it appears whole or not at all. Rerunning the command makes what is
missing; tasks of a Slurm array take a part each, and their number may change between two launches.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from tqdm import tqdm

from jedi.errors import InputError
from jedi.io.files import file_sha256, write_text
from jedi.io.frozen import differences
from jedi.io.images import load_image, load_mask, save_png
from jedi.loading import model_sha256, scheduler_settings, used_settings, versions
from jedi.rng import check_seed, seeded_generator

if TYPE_CHECKING:
    from jedi.attention import ReferenceCache
    from jedi.pipeline import JediPipeline

ImageSource = Path | Image.Image
"""A file, or an image in memory."""

_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")


class PlanError(InputError):
    """A folder that holds another plan, or a plan that makes no sense; the message says what differs."""


@dataclass(frozen=True)
class ImageRequest:
    """One image to be made: ``images/ID.png``."""

    id: str
    """Its name, unique in the plan; ``/`` makes folders."""
    prompts: tuple[str, ...]
    """One prompt. With several the item is a story, sampled as one joint set: ``ID.0.png``, ``ID.1.png``, ..."""
    references: tuple[ImageSource, ...] = ()
    """Images of the subject (or subjects); none: plain text-to-image."""
    seed: int = 0
    """Of the noise, 0 to 2^63 - 1; :func:`seed_of` gives one that depends on the id alone. Image i of a story has
    ``seed + i``."""
    reference_prompts: tuple[str, ...] | None = None
    """A caption for each reference; ``None``: empty ones."""
    image: ImageSource | None = None
    """An image to be edited."""
    mask: ImageSource | None = None
    """What of ``image`` is to be generated: white."""

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its images, relative to ``images/``."""
        if len(self.prompts) == 1:
            return (f"{self.id}.png",)
        return tuple(f"{self.id}.{i}.png" for i in range(len(self.prompts)))


@dataclass(frozen=True)
class Sampling:
    """How images are sampled; the arguments of :class:`jedi.JediPipeline`. ``None``: the model's default."""

    steps: int | None = None
    guidance: str | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    mode: str | None = None


def seed_of(seed: int, name: str) -> int:
    """The seed of the image ``name`` in a run with ``seed``: a pure function, so that a smaller run makes some of
    the larger one's images. 32 bits, which every tool takes."""
    return int.from_bytes(hashlib.sha256(f"{check_seed(seed)}/{name}".encode()).digest()[2:6], "big")


def image_paths(folder: str | Path, item: ImageRequest) -> list[Path]:
    """Where the item's images are, or will be."""
    return [Path(folder) / "images" / name for name in item.files]


def is_done(folder: str | Path, item: ImageRequest) -> bool:
    """Whether all images of the item are there; what is there is whole."""
    return all(path.is_file() for path in image_paths(folder, item))


def missing(folder: str | Path, items: Sequence[ImageRequest]) -> list[ImageRequest]:
    """The items that are not done yet."""
    return [item for item in items if not is_done(folder, item)]


def generate(
    pipe: JediPipeline,
    items: Sequence[ImageRequest],
    folder: str | Path,
    *,
    settings: Sampling = Sampling(),
    model: Mapping[str, str] | None = None,
    batch_size: int = 8,
    part: tuple[int, int] = (0, 1),
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Makes the images of ``items`` that are missing, of part i of n, as ``folder/images/ID.png``.

    References are encoded once for all items in a row that share them (mode `one_way`), so keep such items together;
    items in a row that have as many references each share batches.
    An image depends on its item, the weights and the settings, not on the batch or the part.

    Args:
        items: the whole plan, the same in all parts.
        settings: how images are sampled; frozen in the plan as they resolve for this model.
        model: sha256 of the model's parts as :func:`jedi.loading.load_pipeline` gives them; ``None`` computes them.
        batch_size: items at once.
        part: ``(i, n)``: the i-th of n about equal parts, i from 0. Parts may run at the same time.
        notes: kept in the plan for readers, as the model's name; other notes make no other plan.

    Raises:
        PlanError: the folder holds another plan, or ``items`` make no sense. InputError: as the pipeline raises.
    """
    index, count = part
    if not 0 <= index < count:
        raise PlanError(f"part {index} of {count}: parts run from 0 to the number of parts less 1")
    write_plan(pipe, items, folder, settings=settings, model=model, notes=notes)
    mine = items[len(items) * index // count : len(items) * (index + 1) // count]
    todo = missing(folder, mine)
    if not todo:
        return
    _check_versions(Path(folder))
    options = used_settings(pipe, settings)
    pipe.set_progress_bar_config(disable=True)
    name = "images" if count == 1 else f"images, part {index} of {count}"
    with tqdm(total=len(mine), initial=len(mine) - len(todo), desc=name, file=sys.stderr) as bar:
        for batch, result in _sample(pipe, todo, options, batch_size):
            for item, images in zip(batch, result, strict=True):
                for path, image in zip(image_paths(folder, item), images, strict=True):
                    save_png(image, path)
                bar.update()


# The plan.


def write_plan(
    pipe: JediPipeline,
    items: Sequence[ImageRequest],
    folder: str | Path,
    *,
    settings: Sampling = Sampling(),
    model: Mapping[str, str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Freezes the plan in ``folder``, or checks that the one that stands there is the same; returns it.

    Raises:
        PlanError: another plan stands there; the message names the first differences.
    """
    _check(items, settings)
    digests: dict[Path, str] = {}
    plan = {
        "format": 1,
        "model": dict(model or model_sha256(pipe)),
        "settings": _record_settings(pipe, settings),
        "items": [_record(item, digests) for item in items],
        "versions": versions(),
        "notes": dict(notes or {}),
    }
    plan = json.loads(json.dumps(plan))  # as it will be read: tuples are lists
    path = Path(folder) / "plan.json"
    if not path.exists():
        if (Path(folder) / "images").is_dir() and any((Path(folder) / "images").iterdir()):
            raise PlanError(f"{folder} holds images/ but no plan.json; take another folder")
        write_text(path, json.dumps(plan, indent=1, ensure_ascii=False) + "\n")
    frozen = read_plan(folder)
    _check_same(frozen, plan, folder)
    return frozen


def check_done(items: Sequence[ImageRequest], folder: str | Path) -> dict[str, Any]:
    """The plan in ``folder``, which is that of ``items``, with all images made: what scoring begins with.

    Raises:
        PlanError: no plan, other items, or images that are missing; the message says how many.
    """
    frozen = read_plan(folder)
    digests: dict[Path, str] = {}
    wanted = json.loads(json.dumps([_record(item, digests) for item in items]))
    _check_same(frozen, {**frozen, "items": wanted}, folder)
    if left := missing(folder, items):
        missed = f"{len(left)} of {len(items)} images are missing ({left[0].id}, ...)"
        raise PlanError(f"{folder}: {missed}; generate them first, with the same options")
    return frozen


def read_plan(folder: str | Path) -> dict[str, Any]:
    """The plan that stands in ``folder``. Raises ``PlanError`` if there is none that can be read."""
    path = Path(folder) / "plan.json"
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlanError(f"{folder} holds no plan.json: no images were generated there") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PlanError(f"{path}: not readable as JSON ({error}); remove the file") from None
    if not isinstance(plan, dict) or not {"model", "settings", "items", "versions"} <= set(plan):
        raise PlanError(f"{path}: not a plan of evaluate.py; take another folder")
    return plan


def _check(items: Sequence[ImageRequest], settings: Sampling) -> None:
    if not items:
        raise PlanError("the plan has no items: nothing is to be made")
    seen: set[str] = set()
    for item in items:
        if not _ID.fullmatch(item.id):
            raise PlanError(f"item {item.id!r}: an id is letters, digits, '_', '-' and '.', with '/' between folders")
        if not item.prompts or isinstance(item.prompts, str):
            raise PlanError(f"item {item.id}: prompts is {item.prompts!r}; expected a tuple of one or more")
        if clash := seen.intersection(item.files):
            raise PlanError(f"item {item.id}: two items make the file {clash.pop()}")
        if not 0 <= item.seed < 2**63:
            raise PlanError(f"item {item.id}: seed {item.seed} is not in 0 to 2^63 - 1")
        seen.update(item.files)
    if settings.steps is not None and settings.steps < 1:
        raise PlanError(f"steps must be 1 or more, got {settings.steps}")


def _record_settings(pipe: JediPipeline, settings: Sampling) -> dict[str, Any]:
    place = {"device": pipe.device.type, "dtype": str(pipe.unet.dtype).removeprefix("torch.")}
    return {**used_settings(pipe, settings), "scheduler": scheduler_settings(pipe), **place}


def _record(item: ImageRequest, digests: dict[Path, str]) -> dict[str, Any]:
    """The item as the plan holds it: images by their digests, for a folder may move."""
    record: dict[str, Any] = {"id": item.id, "prompts": item.prompts, "seed": item.seed}
    record["references"] = [_digest(source, digests) for source in item.references]
    optional = {
        "reference_prompts": item.reference_prompts,
        "image": item.image and _digest(item.image, digests),
        "mask": item.mask and _digest(item.mask, digests),
    }
    return record | {key: value for key, value in optional.items() if value is not None}


def _digest(source: ImageSource, digests: dict[Path, str]) -> dict[str, str]:
    if isinstance(source, Image.Image):
        content = f"{source.mode} {source.size}".encode() + source.tobytes()
        return {"sha256": hashlib.sha256(content).hexdigest()}
    if source not in digests:
        digests[source] = file_sha256(source)
    return {"file": "/".join(source.parts[-2:]), "sha256": digests[source]}


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], folder: str | Path) -> None:
    if found := _differences(old, new):
        more = f" and {len(found) - 3} more" * (len(found) > 3)
        raise PlanError(f"{folder} holds another plan ({'; '.join(found[:3])}{more}): take another folder or remove it")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two plans, in words; the versions are another matter."""
    before, after = ({section: plan[section] for section in ("model", "settings")} for plan in (old, new))
    found = [
        f"{key.replace('.', ' ', 1)}: expected {f'{wanted}'[:40]}, found {f'{was}'[:40]}"
        for key, was, wanted in differences(before, after)
    ]
    if len(old["items"]) != len(new["items"]):
        found.append(f"expected {len(new['items'])} items, found {len(old['items'])}")
    for was, wanted in zip(old["items"], new["items"], strict=False):
        if was != wanted:
            found.append(f"item {wanted['id']}: another {', '.join(key for key, *_ in differences(was, wanted))}")
    return found


def _check_versions(folder: Path) -> None:
    """Raises ``PlanError`` where the missing images would be made by other versions than those that are there."""
    frozen, now = read_plan(folder)["versions"], versions()
    if changed := [f"{key} {frozen.get(key)} -> {now[key]}" for key in now if frozen.get(key) != now[key]]:
        raise PlanError(
            f"{folder} was started with other versions ({', '.join(changed)}); resume with those, or use another folder"
        )


# The work.


def _sample(
    pipe: JediPipeline, items: Sequence[ImageRequest], options: dict[str, Any], batch_size: int
) -> Iterator[tuple[Sequence[ImageRequest], list[list[Image.Image]]]]:
    """Batches of items with their images; neighbours that share what is given go together.

    Neighbours with as many references each may share a batch too, though not the references (mode `one_way`).
    """
    from jedi.attention import ATTENTION_MODES

    digests: dict[Path, str] = {}
    caches: dict[tuple, ReferenceCache] = {}
    cacheable = ATTENTION_MODES.get(options["mode"]).cacheable
    for _, run in itertools.groupby(items, lambda item: _together(item, cacheable, digests)):
        group = list(run)
        first = group[0]
        given: dict[str, Any] = {}
        if first.references and not cacheable:
            given |= {"references": _load(first.references), "reference_prompts": first.reference_prompts}
        if first.image is not None:
            given["image"] = load_image(first.image) if isinstance(first.image, Path) else first.image
            given["mask_image"] = load_mask(first.mask) if isinstance(first.mask, Path) else first.mask
        joint = len(first.prompts) > 1
        size = 1 if joint else batch_size
        for start in range(0, len(group), size):
            batch = group[start : start + size]
            if first.references and cacheable:
                keys = [_given(item, digests) for item in batch]
                caches = {key: caches[key] for key in keys if key in caches}  # of the batch before; others are let go
                for key, item in zip(keys, batch, strict=True):
                    if key not in caches:
                        given_references = (_load(item.references), item.reference_prompts)
                        caches[key] = pipe.encode_references(*given_references, mode=options["mode"])
                given["cache"] = _stacked([caches[key] for key in (keys if len(caches) > 1 else keys[:1])])
            prompts = [prompt for item in batch for prompt in item.prompts]
            generators = [seeded_generator(item.seed + i) for item in batch for i in range(len(item.prompts))]
            result = iter(pipe(prompts, generator=generators, joint=joint, **given, **options).images)
            yield batch, [list(itertools.islice(result, len(item.prompts))) for item in batch]


def _load(images: Sequence[ImageSource]) -> list[Image.Image]:
    return [load_image(x) if isinstance(x, Path) else x for x in images]


def _stacked(caches: Sequence[ReferenceCache]) -> ReferenceCache:
    """Caches of one set each, with as many references each, as one cache of that many sets."""
    import torch

    if len(caches) == 1:
        return caches[0]
    layers = {
        name: (
            torch.cat([cache.layers[name][0] for cache in caches]),
            torch.cat([cache.layers[name][1] for cache in caches]),
        )
        for name in caches[0].layers
    }
    return replace(caches[0], layers=layers)


def _together(item: ImageRequest, cacheable: bool, digests: dict[Path, str]) -> tuple:
    """Equal for items that can be sampled in one call."""
    if item.references and cacheable and item.image is None and len(item.prompts) == 1:
        return ("references", len(item.references))
    return _given(item, digests)


def _given(item: ImageRequest, digests: dict[Path, str]) -> tuple:
    """What one call of the pipeline gives once for all its images; a story is a call of its own."""
    given = (*item.references, item.image, item.mask)
    images = tuple(source and _digest(source, digests)["sha256"] for source in given)
    return images, item.reference_prompts, item.id if len(item.prompts) > 1 else None
