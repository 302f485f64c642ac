"""Importer of SynCD, the data set of "Generating Multi-Image Synthetic Data for Text-to-Image Customization" (ICCV
2025, arXiv 2502.01720): some 90,000 objects in 2 or 3 images each.

Read from a local copy, as its page tells to make one (huggingface.co/datasets/nupurkmr9/syncd: clone, `unzip.sh`).
The format is that of the authors' own reader and generator (github.com/nupurkmr9/syncd: method/data/data.py,
dataset/gen_rigid.py, gen_deformable.py, cal_scores.py):

    DIR/*metadata*.json      a list; for each set {"filenames": [...], "prompts": [...], "objaverse_id": "...",
                             "category": "rigid" or "deformable"}, after cal_scores also "dino_scores" (rows of the
                             upper triangle of cosines) and "aesthetics_scores" (by file name without ending)
    DIR/FILENAME             an image; DIR/masks/STEM.jpg (beside it) its mask, of any size, white = subject

What could not be verified here, since the hub is out of reach: that the published files keep to what this code writes,
their number and names. So: all files of that name pattern are read, `NAME_with_scores.json` in place of `NAME.json`,
and anything else in them is an error that names the entry. A mask's pixel counts from half white on; the authors'
reader takes all that is not black, JPEG noise too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from PIL import Image

from data_gen.context import Context
from data_gen.samples import Dropped, SubjectSet
from data_gen.sources import SOURCES
from data_gen.sources.importer import Importer
from data_gen.sources.subjects import inside, share_out, slug
from jedi.io.config import ConfigError
from jedi.io.files import file_sha256
from jedi.io.images import ImageError, MaskError, binary, load_image, load_mask
from jedi.io.ranges import Range, Share
from jedi.io.texts import read_json

_SCORED = "_with_scores"
# NAME_DESCRIPTION_PROMPTS_RANK_IMAGE.jpg, as gen_deformable.py names its files
_DEFORMABLE = re.compile(r"(?P<subject>(?P<name>.+)_\d+)_\d+_\d+_\d+$")


@dataclass
class SyncdSettings:
    """The `syncd` importer."""

    path: str = ""
    """The folder with metadata*.json."""
    masks: bool = True
    """false: the images alone; else a set whose mask is missing is dropped."""
    min_identity: Annotated[float, Range(-1, 1)] | None = None
    """Of the mean of a set's dino_scores, [-1, 1]; the paper keeps from 0.7."""
    min_aesthetic: Annotated[float, Range(0, 10)] | None = None
    """Of each image's aesthetics_scores, [0, 10]; the paper keeps from 6."""
    licence: str = "not stated (huggingface.co/datasets/nupurkmr9/syncd; made with FLUX.1-dev)"
    """The page names no licence of the data; the code is MIT, the images were made with FLUX.1-dev."""
    heldout_fraction: Share = 0.1
    """Of the subjects, by sha256."""


@dataclass(frozen=True)
class Entry:
    """A set, or a part of one that has more images than a set is to have."""

    where: str
    """The metadata file and the entry's number, for messages."""
    folder: Path
    category: str
    identity: str
    """What decides its split: all sets of an object share it."""
    name: str
    images: tuple[tuple[str, str], ...]
    """File name, prompt."""
    scores: dict[str, Any]


@SOURCES.register("syncd")
class Syncd(Importer):
    """SynCD's sets, in the order of its metadata. Raises ConfigError for a folder or an entry of another layout."""

    Settings, name, decides = SyncdSettings, "syncd", "its object's name"
    thresholds = (("syncd_identity", "min_identity"), ("syncd_aesthetic", "min_aesthetic"))

    def __init__(self, settings: SyncdSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.gives = frozenset({"images", "masks"} if settings.masks else {"images"})

    @functools.cached_property
    def files(self) -> list[Path]:
        """The metadata files; of a file without and with scores, that with scores."""
        found = {path.stem: path for path in sorted(self.root.glob("*metadata*.json"))}
        files = [path for stem, path in found.items() if stem.endswith(_SCORED) or stem + _SCORED not in found]
        return self.usable(files, "no *metadata*.json there; unpack SynCD as its page says")

    def found(self) -> Iterator[tuple[str, Entry]]:
        for file in self.files:
            for entry in read_entries(self.root, file, self.context.images_per_set):
                yield entry.identity, entry

    def inputs(self) -> dict[str, str]:
        """The metadata files; images are published under names that do not change, and are too many to be read here."""
        return {path.name: file_sha256(path) for path in self.files}

    def make_set(self, key: str, entry: Entry) -> SubjectSet | Dropped:
        if reason := self._too_low(entry):
            return Dropped(key, reason, entry.scores)
        if len(entry.images) < 2:
            return Dropped(key, "too few images", entry.scores)
        paths = [inside(self.root, entry.folder / name) for name, _ in entry.images]
        masks: list[Image.Image | None] = [None] * len(paths)
        try:
            images = [load_image(path) for path in paths]
            if self.settings.masks:
                files = [inside(self.root, path.parent / "masks" / f"{path.stem}.jpg") for path in paths]
                if not all(file.is_file() for file in files):
                    return Dropped(key, "no mask", entry.scores)
                masks = [_fitted(load_mask(file), image.size) for file, image in zip(files, images, strict=True)]
        except MaskError:
            return Dropped(key, "unclear mask", entry.scores)
        except ImageError as error:
            raise ConfigError(f"{entry.where}: {error}") from error
        return SubjectSet(
            key=key,
            subject={"id": slug(entry.identity), "name": entry.name, "class": entry.name},
            captions=[prompt for _, prompt in entry.images],
            images=images,
            masks=masks,
            attributes=[{"file": name} for name, _ in entry.images],
            licence=self.settings.licence,
            provenance={"data_set": "SynCD", "entry": entry.where, "category": entry.category},
            scores=entry.scores,
        )

    def _too_low(self, entry: Entry) -> str | None:
        for key, score, reason in (
            ("min_identity", "syncd_identity", "syncd identity"),
            ("min_aesthetic", "syncd_aesthetic", "syncd aesthetic"),
        ):
            least, found = getattr(self.settings, key), entry.scores.get(score)
            if least is None:
                continue
            if found is None:
                raise ConfigError(
                    f"{entry.where} has no scores, and syncd.{key}={least} asks for them: take the file that ends in "
                    f"{_SCORED}.json, or set syncd.{key}=null (and use the stage filter)"
                )
            if min(found if isinstance(found, list) else [found]) < least:
                return reason
        return None


def read_entries(root: Path, file: Path, most: int) -> Iterator[Entry]:
    """The sets of a metadata file, of at most `most` images. Raises ConfigError for another layout."""
    inside(root, file)
    content = read_json(file)
    if not isinstance(content, list):
        raise ConfigError(f"{file}: expected a list of sets, found a {type(content).__name__}")
    for number, entry in enumerate(content):
        where = f"{file.name}[{number}]"
        names, prompts = (_texts(where, entry, key) for key in ("filenames", "prompts"))
        if len(names) != len(prompts):
            raise ConfigError(f"{where}: {len(names)} filenames and {len(prompts)} prompts; each image has its own")
        for name in names:
            if Path(name).is_absolute() or ".." in Path(name).parts:  # links are looked at when the image is read
                raise ConfigError(f"{where}: {name!r} leads out of {root}: only files in that folder are read")
        identity, said = _identity(entry, names)
        scores = _scores(where, entry, names)
        for chosen in share_out(range(len(names)), most):
            part = {"images": tuple((names[i], prompts[i]) for i in chosen), "scores": _of(scores, chosen)}
            yield Entry(where, file.parent, str(entry.get("category", "")), identity, said, **part)


def _texts(where: str, entry: Any, key: str) -> list[str]:
    found = entry.get(key) if isinstance(entry, dict) else None
    if not (isinstance(found, list) and found and all(isinstance(x, str) and x for x in found)):
        raise ConfigError(f"{where}: expected {key!r} as a list of texts, found {str(found)[:60]!r}")
    return found


def _identity(entry: dict[str, Any], names: list[str]) -> tuple[str, str]:
    """What all sets of an object share, and how it is called.

    A rigid object is an Objaverse asset, whose name SynCD doesn't give: "object". A deformable one has its name and the
    number of its description in its file names.
    """
    if entry.get("objaverse_id"):
        return str(entry["objaverse_id"]), "object"
    stem = Path(names[0]).stem
    if match := _DEFORMABLE.match(stem):
        return match["subject"], match["name"].replace("_", " ")
    return stem.rpartition("_")[0] or stem, "object"


def _scores(where: str, entry: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """`pairs` (n x n, upper triangle) and `aesthetic` (n), where the entry has them."""
    n, scores = len(names), {}
    try:
        if "dino_scores" in entry:
            scores["pairs"] = [[float(entry["dino_scores"][i][j]) for j in range(n)] for i in range(n)]
        if "aesthetics_scores" in entry:
            scores["aesthetic"] = [float(entry["aesthetics_scores"][Path(name).stem]) for name in names]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: its scores do not fit its {n} images ({error!r})") from None
    return scores


def _of(scores: dict[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
    """The scores of some of the images, as sets hold them: the mean over pairs, one aesthetic score an image."""
    said: dict[str, Any] = {}
    if "pairs" in scores and len(chosen) > 1:
        pairs = [scores["pairs"][a][b] for a in chosen for b in chosen if a < b]
        said["syncd_identity"] = round(sum(pairs) / len(pairs), 4)
    if "aesthetic" in scores:
        said["syncd_aesthetic"] = [round(scores["aesthetic"][i], 4) for i in chosen]
    return said


def _fitted(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The mask in the size of its image, black and white."""
    return binary(mask.resize(size, Image.Resampling.BILINEAR))
