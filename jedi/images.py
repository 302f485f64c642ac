"""Pictures: safe loading, squares, tensors, latents, contact sheets.

Only PIL and numpy are imported here; torch is loaded by the functions that make tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from jedi.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

NEUTRAL = (128, 128, 128)
"""Stands behind transparency and outside of a reference's mask: 0 in the model's [-1, 1]."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""File names that count as pictures when a folder is read."""
# Decoders of still pictures only: PIL also knows formats that run other programs (EPS) or are not pictures.
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "ICO", "TGA")

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom are one past the end."""


class ImageError(InputError):
    """A file that cannot be used as a picture; the message names it and says why."""


def load_image(path: str | Path) -> Image.Image:
    """An RGB picture from a file of any common kind, upright.

    EXIF rotation is applied, transparency is laid over ``NEUTRAL``, 16 bits become 8, of an animation the
    first frame is taken. Raises :class:`ImageError` for what is missing, not a picture, cut short, or larger
    than PIL's limit against decompression bombs (89 million pixels).
    """
    return _load(path, to_rgb)


def load_mask(path: str | Path) -> Image.Image:
    """A mask, mode "L": white (255) is on, transparent is off. Raises as :func:`load_image`."""
    return _load(path, to_mask)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL picture as upright RGB, over ``NEUTRAL`` where it is transparent."""
    return _flatten(image, NEUTRAL).convert("RGB")


def to_mask(image: Image.Image) -> Image.Image:
    """Any PIL picture as an upright mask, mode "L", black where it is transparent."""
    return _flatten(image, (0, 0, 0)).convert("L")


def find_images(paths: Iterable[str | Path]) -> tuple[list[Path], list[Path]]:
    """Picture files from files and folders, folders in the order of their names and without their subfolders.

    Returns the pictures, and the files of folders that were left out because their name is not a picture's.
    Raises :class:`ImageError` for a missing path or a folder without pictures.
    """
    found, ignored = [], []
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(x for x in path.iterdir() if x.is_file() and not x.name.startswith("."))
            pictures = [x for x in files if x.suffix.lower() in SUFFIXES]
            if not pictures:
                raise ImageError(f"{path}: a folder without pictures ({', '.join(SUFFIXES)})")
            found += pictures
            ignored += [x for x in files if x not in pictures]
        elif path.exists():
            found.append(path)
        else:
            raise ImageError(f"{path}: no such file or folder")
    return found, ignored


def fit_square(image: Image.Image, size: int) -> tuple[Image.Image, Box]:
    """The whole picture in a square of ``size`` pixels, and the box in which it stands.

    Nothing is cropped, for a subject must not lose its ears; the margins get the mean colour of the edge they
    continue, which a model trained on squares takes for more background, where black bars would be objects.
    """
    scale = size / max(image.size)
    width, height = (max(1, round(x * scale)) for x in image.size)
    small = image.resize((width, height), Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    if width == height:
        return small, (0, 0, size, size)
    left, top = (size - width) // 2, (size - height) // 2
    pixels = np.asarray(small.convert("RGB"))
    edges = pixels[[0, -1]] if width > height else pixels[:, [0, -1]]
    square = Image.new("RGB", (size, size), tuple(edges.mean((0, 1)).round().astype(int).tolist()))
    square.paste(small, (left, top))
    return square, (left, top, left + width, top + height)


def place_in_row(image: Image.Image, slot: int, slots: int, size: int) -> Image.Image:
    """The whole picture, small, in one of ``slots`` places from left to right of a square of ``size`` pixels.

    So a model that keeps the place of what its references show can put several subjects beside one another. The rest
    of the square has the mean colour of the picture's edge, as in :func:`fit_square`.
    """
    side = size // slots
    small, _ = fit_square(image, side)
    pixels = np.asarray(small.convert("RGB")).astype(float)
    rim = np.concatenate([pixels[[0, -1]].reshape(-1, 3), pixels[:, [0, -1]].reshape(-1, 3)])
    square = Image.new("RGB", (size, size), tuple(rim.mean(0).round().astype(int).tolist()))
    square.paste(small, (slot * size // slots, (size - side) // 2))
    return square


def cut_out(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The masked subject (white) on ``NEUTRAL``. Raises ``ValueError`` unless both have one size."""
    if image.size != mask.size:
        raise ValueError(f"the mask has {mask.size} pixels, its picture {image.size}: they must agree")
    return Image.composite(image, Image.new("RGB", image.size, NEUTRAL), mask)


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as float32 ``[n 3 H W]`` in [-1, 1]; masks as ``[n 1 H W]``."""
    import torch

    arrays = [np.asarray(image, dtype=np.float32).reshape(image.height, image.width, -1) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1


def to_pil(pixels: Tensor) -> list[Image.Image]:
    """``[n 3 H W]`` in [-1, 1] (values outside are clipped) as RGB pictures."""
    array = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    return [Image.fromarray(x) for x in array.cpu().numpy()]


def encode_pixels(vae: Any, pixels: Tensor) -> Tensor:
    """``[n 3 H W]`` in [-1, 1] -> scaled latents ``[n c h w]``: the posterior's mode, nothing random."""
    latents = vae.encode(_ready_for(vae, pixels)).latent_dist.mode()
    return (latents - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Scaled latents ``[n c h w]`` -> ``[n 3 H W]``, about [-1, 1]."""
    latents = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0)
    return vae.decode(_ready_for(vae, latents)).sample


def _ready_for(vae: Any, x: Tensor) -> Tensor:
    from diffusers.utils.torch_utils import get_module_execution_device

    return x.to(get_module_execution_device(vae), vae.dtype)  # with offloading its weights may lie elsewhere


def contact_sheet(
    rows: Sequence[Sequence[tuple[Image.Image | None, str]]], tile: int = 160, gap: int = 8, lines: int = 4
) -> Image.Image:
    """Rows of pictures with captions under them, on white.

    Each cell is ``(picture, caption)``; ``None`` leaves its place empty. Pictures are fitted into ``tile``
    pixels, captions wrapped to at most ``lines`` lines. Raises ``ValueError`` if there is no cell.
    """
    if not any(rows):
        raise ValueError("a contact sheet needs at least one picture")
    font = ImageFont.load_default(size=12)
    line_height = sum(font.getmetrics()) + 2
    captions = [[_wrap(caption, font, tile, lines) for _, caption in row] for row in rows]
    heights = [tile + line_height * max((len(text) for text in row), default=0) + gap for row in captions]
    columns = max(map(len, rows))
    sheet = Image.new("RGB", (gap + columns * (tile + gap), gap + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    top = gap
    for row, texts, height in zip(rows, captions, heights, strict=True):
        for column, ((picture, _), text) in enumerate(zip(row, texts, strict=True)):
            left = gap + column * (tile + gap)
            if picture is not None:
                fitted = ImageOps.contain(picture.convert("RGB"), (tile, tile))
                sheet.paste(fitted, (left + (tile - fitted.width) // 2, top + (tile - fitted.height) // 2))
            for i, line in enumerate(text):
                draw.text((left, top + tile + i * line_height), line, fill="black", font=font)
        top += height
    return sheet


def _load(path: str | Path, convert: Any) -> Image.Image:
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"{path}: " + ("a folder, not a picture" if path.is_dir() else "no such file"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=[x for x in _FORMATS if x in _decoders()]) as image:
                return convert(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: too many pixels; at most {Image.MAX_IMAGE_PIXELS:,} are read") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{path}: not a picture of a known kind ({', '.join(_FORMATS)})") from error
    except PermissionError as error:
        raise ImageError(f"{path}: no permission to read it") from error
    except Exception as error:  # decoders raise almost anything: OSError, SyntaxError, struct.error
        raise ImageError(f"{path}: broken or cut short ({str(error) or type(error).__name__})") from error


def _decoders() -> dict:
    Image.init()
    return Image.OPEN


def _flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Upright, 8 bits a channel, without transparency."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _to_8_bit(image)
    if not (image.has_transparency_data or image.mode in ("RGBa", "La")):
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Greyscale of more than 8 bits: integers as 16 bits, floats by the least usual range that holds them."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    top = next((x for x in ranges if values.max() <= x), values.max())
    return Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8))


def _wrap(text: str, font: Any, width: int, lines: int) -> list[str]:
    """Words of ``text`` in up to ``lines`` lines of ``width`` pixels; an ellipsis for what is left out."""
    wrapped: list[str] = []
    for word in text.split():
        if wrapped and font.getlength(f"{wrapped[-1]} {word}") <= width:
            wrapped[-1] += f" {word}"
        else:
            wrapped.append(word)
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], f"{wrapped[lines - 1]} ..."]
    for i, line in enumerate(wrapped):
        while len(line) > 1 and font.getlength(line) > width:
            line = line[:-1]
        wrapped[i] = line
    return wrapped
