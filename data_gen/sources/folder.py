"""A user's own sets: a folder with a folder of photos for each subject, or of the frames of a film.

    DIR/red_mug/01.jpg            a photo
    DIR/red_mug/01.txt            its caption, if there is one (or 01.jpg.txt, 01.caption); else `folder.caption` holds
    DIR/red_mug/01.mask.png       where the subject is (white), if known
    DIR/subjects.json             {"red_mug": {"name": "red mug", "class": "mug"}}, if folder names don't say it

Films are not read: `ffmpeg -i mug.mp4 DIR/red_mug/%05d.jpg` makes a folder of frames, `every_nth` takes some of them.
All photos of a subject are used, each once: `images_per_set` at most in a set, so seven photos make sets of four and of
three. Neighbours (by name) go to different sets, for the frames of a film. What else lies there is counted in the plan
and in the report, by reason.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from data_gen.samples import Dropped, SubjectSet
from data_gen.sources import SOURCES
from data_gen.sources.importer import Importer
from data_gen.sources.subjects import (
    NAMES,
    PLAIN,
    check_template,
    composed,
    inside,
    is_system,
    names,
    same_name,
    share_out,
    shown,
    slug,
    unusable,
    words,
)
from jedi.io.config import ConfigError
from jedi.io.files import file_sha256
from jedi.io.images import SUFFIXES, ImageError, binary, load_image, load_mask
from jedi.io.ranges import OneOf, Range, Share
from jedi.io.texts import is_text, read_json, read_text

MASK = ".mask"
"""Ends the name of a mask, before its suffix."""
CAPTIONS = (".txt", ".caption")
SUBJECTS = "subjects.json"
_FILMS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


@dataclass
class FolderSettings:
    """The `folder` source."""

    path: str = ""
    caption: str = "a photo of {a_name}"
    """Of photos without a text; also {name}, {class}, {a_class}."""
    licence: str = "unknown"
    """Of the photos, as the data card says it."""
    every_nth: Annotated[int, Range(1, 100_000)] = 1
    """Of a subject's images, in the order of their names."""
    min_images: Annotated[int, Range(1, 64)] = 2
    """A set with less is dropped: one image cannot be both reference and target."""
    unreadable: Annotated[str, OneOf(("error", "drop"))] = "error"
    """A broken image: error, or drop (its set continues without it, and says so)."""
    heldout_fraction: Share = 0.1
    """Of the subjects, by the sha256 of their names; 0: none."""

    def __post_init__(self) -> None:
        check_template("folder.caption", self.caption, NAMES)


@dataclass(frozen=True)
class Photo:
    """An image and what lies beside it."""

    file: Path
    caption: Path | None = None
    mask: Path | None = None

    @property
    def files(self) -> list[Path]:
        return [file for file in (self.file, self.caption, self.mask) if file]


@dataclass(frozen=True)
class PhotoSubject:
    """A subject's folder. `photos` in the order of their names."""

    folder: Path
    about: dict[str, str]
    """Id, name, class."""
    photos: tuple[Photo, ...]
    left_out: Counter[str]
    """Files that are not used, by reason."""


@SOURCES.register("folder")
class Folder(Importer):
    """Sets of photos that are there; a subject's sets follow one another."""

    Settings, name, decides = FolderSettings, "folder", f"its folder's name{PLAIN}"

    @functools.cached_property
    def subjects(self) -> list[PhotoSubject]:
        return read_subjects(self.root, self.settings)

    def found(self) -> Iterator[tuple[str, tuple[PhotoSubject, list[Photo]]]]:
        for subject in self.subjects:
            for photos in share_out(subject.photos, self.context.images_per_set):
                yield same_name(subject.folder.name), (subject, photos)

    @property
    def gives(self) -> frozenset[str]:
        """Masks, where every photo has one."""
        photos = [photo for subject in self.subjects for photo in subject.photos]
        return frozenset({"images", *(["masks"] if all(photo.mask for photo in photos) else [])})

    def inputs(self) -> dict[str, str]:
        """One digest over the names and contents of all files that are used: this reads them all."""
        digest = hashlib.sha256()
        files = [file for subject in self.subjects for photo in subject.photos for file in photo.files]
        for file in [self.root / SUBJECTS, *files]:
            if file.is_file():
                digest.update(f"{file.relative_to(self.root).as_posix()}\0{file_sha256(file)}\n".encode())
        return {"photos in folder.path": digest.hexdigest()}

    def left_out(self) -> dict[str, int]:
        """The files that are not used, by reason."""
        return dict(sum((subject.left_out for subject in self.subjects), Counter()))

    def make_set(self, key: str, found: tuple[PhotoSubject, list[Photo]]) -> SubjectSet | Dropped:
        """Raises ConfigError for an image that cannot be read, unless these are to be dropped."""
        subject, photos = found
        members, broken = [], []
        for photo in photos:
            try:
                where = {"file": photo.file.relative_to(self.root).as_posix()}
                members.append((self._caption(subject, photo), *load_photo(photo), where))
            except ImageError as error:
                if self.settings.unreadable == "error":
                    raise ConfigError(f"{error}; mend or remove it, or set folder.unreadable=drop") from error
                broken.append(photo.file.name)
        if len(members) < self.settings.min_images:
            return Dropped(key, "unreadable images" if broken else "too few images", {"images": len(members)})
        captions, images, masks, attributes = map(list, zip(*members, strict=True))
        without = {"unreadable": broken, "left_out": {"source": {"unreadable image": len(broken)}}}  # the report counts
        return SubjectSet(
            key, dict(subject.about), captions, images, masks, attributes, self.settings.licence,
            provenance=without if broken else {},
        )  # fmt: skip

    def _caption(self, subject: PhotoSubject, photo: Photo) -> str:
        said = " ".join(read_text(photo.caption).split()) if photo.caption else ""
        return said or self.settings.caption.format(**names(subject.about["name"], subject.about["class"]))


def read_subjects(root: Path, settings: FolderSettings) -> list[PhotoSubject]:
    """The subjects of a folder, by name. Raises ConfigError for what cannot be meant: no subjects, a subject twice, a
    subject without images, images or films where they are not looked for, links that lead elsewhere, names that
    are not UTF-8."""
    folders, told = [], _told(root)
    for path in sorted(root.iterdir()):
        if is_system(path.name):
            continue
        if inside(root, path).is_dir():
            if not is_text(path.name):
                raise ConfigError(f"{shown(path)}: the name of a subject's folder must be UTF-8; rename it")
            folders.append(path)
        elif path.suffix.lower() in (*SUFFIXES, *_FILMS):
            raise ConfigError(f"{path}: expected a folder for each subject, {root}/SUBJECT/{path.stem}.jpg")
    if not folders:
        raise ConfigError(f"folder.path={root} has no folders; expected one for the photos of each subject")
    known: dict[str, Path] = {}
    for folder in folders:
        other = known.setdefault(same_name(folder.name), folder)
        if other is not folder:
            raise ConfigError(f"{other} and {folder} name the same subject; put their photos together, or rename one")
    if missing := sorted(set(told) - {composed(folder.name) for folder in folders}):
        raise ConfigError(f"{root / SUBJECTS} names {missing[0]!r}, but there is no such folder")
    return [_subject(root, folder, told.get(composed(folder.name), {}), settings) for folder in folders]


def load_photo(photo: Photo) -> tuple[Any, Any]:
    """The image, and its mask or None where there is no file. Raises ImageError, also where their sizes differ."""
    image = load_image(photo.file)
    if photo.mask is None:
        return image, None
    found = load_mask(photo.mask)
    if found.size != image.size:
        raise ImageError(f"{photo.mask} has {found.size} pixels, its image {image.size}")
    return image, binary(found)


def _subject(root: Path, folder: Path, told: dict[str, str], settings: FolderSettings) -> PhotoSubject:
    left_out: Counter[str] = Counter()
    stems, masks, texts = {}, {}, {}
    for path in sorted(folder.iterdir()):
        if is_system(path.name):
            continue
        suffix, stem = path.suffix.lower(), composed(path.stem)
        if path.is_dir():
            raise ConfigError(f"{shown(path)}: photos must be in their subject's folder, not in folders below it")
        if reason := unusable(path):
            if suffix in SUFFIXES and settings.unreadable == "error":
                raise ConfigError(f"{shown(path)}: {reason}; mend or remove it, or set folder.unreadable=drop")
            left_out[reason] += 1
            continue
        inside(root, path)
        if suffix in _FILMS:
            raise ConfigError(f"{path}: films are not read; make frames: ffmpeg -i {path.name} {folder.name}/%05d.jpg")
        if suffix in SUFFIXES and stem.lower().endswith("-masklabel"):
            raise ConfigError(f"{path}: is this a mask? Here its name is {stem[:-10]}{MASK}{path.suffix}; rename it")
        if suffix in SUFFIXES and stem.lower().endswith(MASK):
            kept, stem = masks, stem[: -len(MASK)]
        elif suffix in SUFFIXES or suffix in CAPTIONS:
            kept = stems if suffix in SUFFIXES else texts
        else:
            left_out[f"{suffix or 'without an ending'}: not a kind that is read"] += 1
            continue
        if other := kept.get(stem):
            raise ConfigError(f"{path} and {other} share a name, so captions and masks are not clear")
        kept[stem] = path
    if alone := sorted(set(masks) - set(stems)):
        raise ConfigError(f"{masks[alone[0]]}: a mask without its image")
    photos = []
    for stem, path in stems.items():
        said = [texts[name] for name in (stem, composed(path.name)) if name in texts]
        if len(said) > 1:
            raise ConfigError(f"{said[0]} and {said[1]} are both captions of {path.name}; remove one")
        photos.append(Photo(path, said[0] if said else None, masks.get(stem)))
    if not photos:
        there = f"; there: {', '.join(sorted(left_out))}" if left_out else ""
        raise ConfigError(f"{folder}: a subject's folder without images ({', '.join(SUFFIXES)}){there}")
    name = told.get("name", words(folder.name))
    about = {"id": slug(folder.name) or composed(folder.name), "name": name, "class": told.get("class", name)}
    return PhotoSubject(folder, about, tuple(photos[:: settings.every_nth]), left_out)


def _told(root: Path) -> dict[str, dict[str, str]]:
    """What subjects.json says, by folder."""
    path = inside(root, root / SUBJECTS)
    if not path.is_file():
        return {}
    told = read_json(path)
    fits = isinstance(told, dict) and all(
        isinstance(entry, dict)
        and set(entry) <= {"name", "class"}
        and all(isinstance(value, str) and value.strip() for value in entry.values())
        for entry in told.values()
    )
    if not fits:
        raise ConfigError(f'{path}: expected {{"FOLDER": {{"name": "red mug", "class": "mug"}}, ...}}')
    return {composed(folder): entry for folder, entry in told.items()}
