"""Images: opening them safely, masks, squares, tensors.

`open_image` is the one place of the project where an encoded image is decoded: no other module calls PIL's open.
Only PIL and numpy are imported here; torch is loaded by the functions that make tensors.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from jedi.errors import InputError
from jedi.io.files import atomic
from jedi.io.texts import is_text

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform
    from torch import Tensor

log = logging.getLogger(__name__)

NEUTRAL = (128, 128, 128)
"""Stands behind transparency and outside of a reference's mask: 0 in the model's [-1, 1]."""
MAX_PIXELS = 89_478_485
"""Larger images are refused by what their header says, before anything is decoded: 256 MiB of RGB."""
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
"""Decoders of still images. PIL also knows formats that run other programs (EPS), and many that nobody tests."""
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip
"""File names that count as images when a folder is read."""
RECORD = "samples.json"
"""What sample.py writes beside its images: how they were made."""

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are one past the end."""


class ImageError(InputError):
    """A file that cannot be used as an image; the message names it and says why."""


class MaskError(ImageError):
    """An image or an array that may mean this or that as a mask."""


def load_image(source: str | Path | bytes, name: str = "", size: tuple[int, int] | None = None) -> Image.Image:
    """An RGB image, as `open_image` reads it; transparency is laid over ``NEUTRAL``."""
    return _rgb_over(open_image(source, name, size), NEUTRAL)


def load_mask(source: str | Path | bytes, name: str = "") -> Image.Image:
    """A mask, mode "L": white (255) is on, transparent is off. Raises as `open_image` and `to_mask`."""
    return _open(source, name, lambda image, name: to_mask(image, name))


def open_image(source: str | Path | bytes, name: str = "", size: tuple[int, int] | None = None) -> Image.Image:
    """An image from a file or from a file's bytes, decoded: sRGB, upright, mode "L", "RGB" or "RGBA".

    EXIF rotation is applied; an embedded colour profile is converted to sRGB (one that is broken or does not fit is
    said in a warning, and the image taken as sRGB); 16 bits become 8; of an animation the first frame is taken.
    What the file says beside its pixels is not kept.

    Args:
        source: a file, or the bytes of one.
        name: what errors call it; a file's path by default.
        size: width and height that it must have, checked before it is decoded, and when it stands upright.

    Raises:
        ImageError: missing, not a regular file (a pipe would be waited for), none of ``FORMATS``, cut short, of
            another size, or of more than ``MAX_PIXELS``.
    """
    return _open(source, name, _plain, size)


def image_size(data: bytes, name: str = "an image") -> tuple[int, int]:
    """Upright width and height, from the beginning of an image's file: nothing is decoded. Raises as `open_image`."""
    return _open(data, name, _upright_size, decode=False)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as upright sRGB, over ``NEUTRAL`` where it is transparent."""
    return _rgb_over(_plain(image), NEUTRAL)


def to_mask(mask: Image.Image | np.ndarray, name: str = "mask") -> Image.Image:
    """Any mask as mode "L", upright: white (255) is on, black is off, what lies between is in part.

    Values may run from 0 to 1 (booleans, numbers), to 255 or to 65535; arrays are ``[H W]``, ``[H W 1]`` or
    ``[1 H W]``. Transparent is off.

    Raises:
        MaskError: ``mask`` may mean this or that: it has colours, its shape lies in its transparency alone, or it has
            numbers above 1 and none that reaches half of 255 (a map of labels?).
    """
    values = _mask_values(mask, name)
    if values.ndim == 3:
        values = values[0] if values.shape[0] == 1 else values[..., 0] if values.shape[-1] == 1 else values
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
        raise MaskError(f"{name}: an array of {values.dtype} {list(values.shape)}; a mask is numbers [H W]")
    if values.dtype == bool:
        values = values.astype(np.uint8)
    least, most = values.min(), values.max()
    top = next((x for x in (1, 255, 65535) if most <= x), None)  # not a number is no more than any
    if top is None or least < 0 or (1 < most < top / 2):
        raise MaskError(
            f"{name}: its values go from {least} to {most}, which is neither 0 to 1 nor 0 to 255 (a map of labels?); "
            "a mask is white (255) where it is on and black (0) elsewhere"
        )
    return Image.fromarray((values * (255 / top)).round().astype(np.uint8))


def binary(mask: Image.Image) -> Image.Image:
    """A mask ("L") with nothing in part: 255 from half white on, else 0."""
    return mask.point(lambda value: 255 * (value >= 128))


def _mask_values(mask: Image.Image | np.ndarray, name: str) -> np.ndarray:
    """The numbers of a mask as they were stored: ``[H W]``, or the array that was given."""
    if not isinstance(mask, Image.Image):
        return np.asarray(mask)
    mask = _upright(mask, name)
    if mask.mode.startswith(("I", "F")):
        return np.asarray(mask)
    mask = _8_bit(mask)  # a mask holds numbers, not colours: its profile means nothing
    over = _rgb_over(mask, (0, 0, 0))
    if mask.mode == "RGBA" and not over.getbbox() and len(set(mask.getchannel("A").getextrema())) > 1:
        raise MaskError(f"{name}: black all over, with a shape in its transparency; paint white what is on")
    low, high = (function.reduce(np.asarray(over), axis=-1) for function in (np.minimum, np.maximum))
    if (high - low).max() > 64:
        raise MaskError(f"{name}: an image with colours; a mask is white (255) where it is on and black elsewhere")
    return np.asarray(over.convert("L"))


def find_images(paths: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
    """Image files from files and folders, folders in the order of their names and without their subfolders.

    Returns the images, and what was left out of folders: files whose name is not an image's, or is not UTF-8, what
    is no regular file (pipes, sockets, links to nowhere), and the contact sheet that sample.py's record names.
    Raises :class:`ImageError` for a missing path or a folder without images.
    """
    found, ignored = [], []
    for path in map(Path, paths):
        if path.exists() and not is_text(str(path)):
            name = os.fsencode(path).decode(errors="backslashreplace")
            raise ImageError(f"{name}: its name is not UTF-8; rename it")
        if path.is_dir():
            files = sorted(x for x in path.iterdir() if not x.is_dir() and not x.name.startswith("."))
            sheets = _sheets(path / RECORD)
            named = [x for x in files if x.suffix.lower() in SUFFIXES and x.name not in sheets]
            images = [x for x in named if x.is_file() and is_text(x.name)]
            if not images:
                raise ImageError(f"{path}: a folder without images ({', '.join(SUFFIXES)})")
            found += images
            ignored += [x for x in files if x not in images]
        elif path.exists():
            found.append(path)
        else:
            raise ImageError(f"{path}: no such file or folder")
    return found, ignored


def _sheets(record: Path) -> set[str]:
    """Files that sample.py's record lists, but not as results."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        told = json.loads(record.read_text(encoding="utf-8"))
        return set(told["files"]) - {image["file"] for image in told["images"]}
    return set()


def fit(image: Image.Image, width: int, height: int) -> tuple[Image.Image, Box]:
    """The whole image within ``width`` x ``height`` pixels, and the box in which it stands.

    Nothing is cropped, for a subject must not lose its ears; the margins get the mean colour of the edge they
    continue, which a model trained on full images takes for more background, where black bars would be objects.
    """
    scale = min(width / image.width, height / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(inner, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    if inner == (width, height):
        return small, (0, 0, width, height)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    pixels = np.asarray(small.convert("RGB"))
    edges = pixels[[0, -1]] if inner[1] < height else pixels[:, [0, -1]]
    whole = Image.new("RGB", (width, height), tuple(edges.mean((0, 1)).round().astype(int).tolist()))
    whole.paste(small, (left, top))
    return whole, (left, top, left + inner[0], top + inner[1])


def fit_square(image: Image.Image, size: int) -> tuple[Image.Image, Box]:
    """:func:`fit` within a square of ``size`` pixels."""
    return fit(image, size, size)


def place_in_row(image: Image.Image, slot: int, slots: int, width: int, height: int) -> Image.Image:
    """The whole image, small, in one of ``slots`` places from left to right of ``width`` x ``height`` pixels.

    So a model that keeps the place of what its references show can put several subjects beside one another. The rest
    has the mean colour of the image's edge, as in :func:`fit`.
    """
    side = min(width // slots, height)
    small, _ = fit_square(image, side)
    pixels = np.asarray(small.convert("RGB")).astype(float)
    rim = np.concatenate([pixels[[0, -1]].reshape(-1, 3), pixels[:, [0, -1]].reshape(-1, 3)])
    row = Image.new("RGB", (width, height), tuple(rim.mean(0).round().astype(int).tolist()))
    margin = (width // slots - side) // 2
    row.paste(small, (slot * width // slots + margin, (height - side) // 2))
    return row


def cut_out(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The masked subject (white) on ``NEUTRAL``. Raises ``InputError`` unless both have one size."""
    if image.size != mask.size:
        raise InputError(f"the mask has {mask.size} pixels, its image {image.size}: they must agree")
    return Image.composite(image, Image.new("RGB", image.size, NEUTRAL), mask)


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB images of one size as float32 ``[n 3 H W]`` in [-1, 1]; masks as ``[n 1 H W]``."""
    import torch

    arrays = [np.asarray(image).reshape(image.height, image.width, -1) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pil(pixels: Tensor) -> list[Image.Image]:
    """``[n 3 H W]`` in [-1, 1] (values outside are clipped) as RGB images."""
    array = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    return [Image.fromarray(x) for x in array.cpu().numpy()]


def save_png(image: Image.Image, path: Path) -> None:
    """Saves an image, and the folders that lead to it; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        image.save(temporary, "PNG")


def _open(
    source: str | Path | bytes, name: str, convert: Any, size: tuple[int, int] | None = None, decode: bool = True
) -> Any:
    """``convert(image, name)`` of the image while its file is open."""
    if not isinstance(source, bytes):
        path, name = Path(source), name or str(source)
        if not path.is_file():  # to open a pipe would wait for ever
            found = "a folder, not an image" if path.is_dir() else "no such file"
            raise ImageError(f"{name}: " + ("not a regular file" if found[0] == "n" and path.exists() else found))
    try:
        with warnings.catch_warnings():  # PIL warns of what is refused here, and of unknown tags, and names no file
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else path, formats=_known()) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(f"{name}: too many pixels ({image.width} x {image.height}); at most {_LIMIT}")
                _check_size(image, name, size)
                if not decode:
                    return convert(image)
                image.load()
                converted = convert(image, name)
                _check_size(converted, name, size)
                return converted
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too many pixels; at most {_LIMIT}") from error
    except Image.UnidentifiedImageError as error:
        remedy = "" if isinstance(source, bytes) else "; convert HEIC, JPEG XL and camera raw to JPEG or PNG"
        raise ImageError(f"{name}: not an image of a known kind ({', '.join(FORMATS)}){remedy}") from error
    except PermissionError as error:
        raise ImageError(f"{name}: no permission to read it") from error
    except MemoryError as error:
        raise ImageError(f"{name}: no memory to decode it") from error
    except Exception as error:  # decoders raise almost anything: OSError, SyntaxError, struct.error
        raise ImageError(f"{name}: broken or cut short ({str(error) or type(error).__name__})") from error


def _check_size(image: Image.Image, name: str, size: tuple[int, int] | None) -> None:
    if size is not None and image.size != size:
        raise ImageError(f"{name}: {image.size} pixels, expected {size}")


_LIMIT = f"{MAX_PIXELS:,} are read"


def _known() -> list[str]:
    """Those of ``FORMATS`` that this PIL was built with."""
    Image.init()
    return [x for x in FORMATS if x in Image.OPEN]


def _plain(image: Image.Image, name: str = "an image") -> Image.Image:
    """Upright sRGB of 8 bits a channel, mode "L", "RGB" or "RGBA", without what the file said beside the pixels."""
    if image.mode == "RGB" and not image.info and image.format in (None, "PNG"):  # TIFF has its rotation elsewhere
        return image.copy()
    profile = image.info.get("icc_profile")
    image = _8_bit(_upright(image, name), profiled=bool(profile))
    if profile:
        try:
            image = _to_srgb(image, profile)
        except Exception as error:  # lcms and PIL raise OSError, PyCMSError, ValueError
            log.warning("%s: its colour profile cannot be used (%s); taken as sRGB", name, error)
    if image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGB")
    image.info = {}
    return image


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # EXIF data are anybody's bytes; the pixels may be whole
        copy = image.copy()  # if it is they that are broken, this raises
        log.warning("%s: its EXIF data cannot be read (%s); taken as upright", name, error)
        return copy


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return image.size[::-1] if turned else image.size


def _8_bit(image: Image.Image, profiled: bool = False) -> Image.Image:
    """8 bits a channel, alpha unmultiplied: mode "L", "RGB", "RGBA", or (``profiled``) "CMYK" and "LAB" as they are."""
    if image.mode.startswith(("I", "F")):
        return _scaled(image)
    if image.has_transparency_data or image.mode in ("RGBa", "La"):
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode in ("L", "RGB") or (profiled and image.mode in ("CMYK", "LAB")):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """Greyscale of more than 8 bits: integers as 16 bits, floats by the least usual range that holds them."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    top = next((x for x in ranges if values.max() <= x), values.max())
    return Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8))


def _rgb_over(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Colours as the profile means them; alpha as it is. Raises for a profile of another kind of image."""
    from PIL import ImageCms

    space = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    colours = image.convert("RGB") if alpha else image
    if space == "GRAY" and colours.mode == "RGB":
        grey = colours.getchannel("G")
        if any(colours.getchannel(x).tobytes() != grey.tobytes() for x in "RB"):
            raise ValueError("one for grey, in an image with colours")
        colours = grey
    elif space == "RGB" and colours.mode == "L":
        colours = colours.convert("RGB")
    transform = _transform(profile, colours.mode)
    colours = colours.convert("RGB") if transform is None else transform.apply(colours)
    if alpha:
        colours.putalpha(alpha)
    return colours


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCmsTransform | None:
    """From a profile to sRGB; None for one that is sRGB but for rounding, as in most photos: they keep their values."""
    from PIL import ImageCms

    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB"
    )
    if mode not in ("L", "RGB"):
        return transform
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    probe = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3) if mode == "RGB" else steps[None]
    plain = Image.fromarray(probe)
    change = np.asarray(transform.apply(plain), dtype=int) - np.asarray(plain.convert("RGB"))
    return None if np.abs(change).max() <= 1 else transform
