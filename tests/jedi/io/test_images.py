"""jedi.io.images: what people have in their folders, and what they should not have."""

import io
import os
import random
import socket
import struct
import subprocess
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jedi.io import images
from jedi.io.contact_sheet import contact_sheet
from jedi.vae import decode_latents, encode_pixels
from tests import icc
from tests.paths import DREAMBOOTH, needs_dreambooth

ORANGE = (255, 128, 0)


def quarters(size=(8, 6)) -> Image.Image:
    """Orange, blue in the top left quarter: no two turns of it look alike."""
    image = Image.new("RGB", size, ORANGE)
    image.paste((0, 0, 255), (0, 0, size[0] // 2, size[1] // 2))
    return image


def near(image: Image.Image, place: tuple[int, int], colour: tuple, tolerance: int = 4) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(image.getpixel(place), colour, strict=True))


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "bmp", "gif"])
def test_formats_give_the_same_rgb_image(tmp_path, suffix):
    quarters().save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    image = images.load_image(tmp_path / f"a.{suffix}")
    assert image.mode == "RGB"
    assert near(image, (0, 0), (0, 0, 255)) and near(image, (7, 5), ORANGE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = quarters() if orientation == 1 else quarters().transpose(back[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    image = images.load_image(tmp_path / "a.png")
    assert image.size == (8, 6)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(quarters()))


def test_transparency_is_laid_over_neutral(tmp_path):
    image = quarters().convert("RGBA")
    image.putpixel((7, 5), (*ORANGE, 0))
    image.save(tmp_path / "rgba.png")
    Image.new("LA", (2, 2), (200, 0)).save(tmp_path / "la.png")
    palette = quarters().quantize(4)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((7, 5)))
    assert near(images.load_image(tmp_path / "rgba.png"), (7, 5), images.NEUTRAL, 0)
    assert near(images.load_image(tmp_path / "rgba.png"), (6, 5), ORANGE, 0)
    assert near(images.load_image(tmp_path / "la.png"), (0, 0), images.NEUTRAL, 0)
    assert near(images.load_image(tmp_path / "p.png"), (7, 5), images.NEUTRAL, 0)
    assert near(images.load_image(tmp_path / "p.png"), (0, 0), (0, 0, 255))


def test_other_modes(tmp_path):
    Image.new("L", (3, 3), 77).save(tmp_path / "l.png")
    Image.new("1", (3, 3), 1).save(tmp_path / "1.png")
    quarters().convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    Image.fromarray(np.full((3, 3), 77 * 257, np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(np.full((3, 3), 77 * 257, np.uint16)).save(tmp_path / "16.tiff")
    Image.fromarray(np.full((3, 3), 0.25, np.float32)).save(tmp_path / "f.tiff")
    assert images.load_image(tmp_path / "l.png").getpixel((0, 0)) == (77,) * 3
    assert images.load_image(tmp_path / "1.png").getpixel((0, 0)) == (255,) * 3
    assert near(images.load_image(tmp_path / "cmyk.jpg"), (7, 5), ORANGE, 12)
    assert images.load_image(tmp_path / "16.png").getpixel((0, 0)) == (77,) * 3
    assert images.load_image(tmp_path / "16.tiff").getpixel((0, 0)) == (77,) * 3
    assert images.load_image(tmp_path / "f.tiff").getpixel((0, 0)) == (64,) * 3


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunks


def truncated(suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, suffix)
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an image"),
        (b"hello world, this is text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (truncated("PNG"), "broken or cut short"),
        (truncated("JPEG"), "broken or cut short"),
        (truncated("WEBP"), "broken or cut short|not an image"),
        (bomb(20_000, 20_000), "too many pixels"),
        (bomb(10_000, 9_500), "too many pixels"),
    ],
    ids=["empty", "text", "eps", "png", "jpeg", "webp", "bomb", "large"],
)
def test_bad_files_are_named(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(images.ImageError, match=message) as error:
        images.load_image(tmp_path / "a.png")
    assert str(tmp_path / "a.png") in str(error.value)


def test_missing_files_folders_and_permissions_are_named(tmp_path):
    with pytest.raises(images.ImageError, match="no such file"):
        images.load_image(tmp_path / "a.png")
    with pytest.raises(images.ImageError, match="a folder"):
        images.load_image(tmp_path)
    if os.geteuid():
        quarters().save(tmp_path / "a.png")
        (tmp_path / "a.png").chmod(0)
        with pytest.raises(images.ImageError, match="no permission"):
            images.load_image(tmp_path / "a.png")


SHAPE = np.array([[0, 0, 1], [1, 1, 1]])
"""A mask, as numbers."""


def stored(image: Image.Image, kind: str = "PNG", **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "mask",
    [
        *(SHAPE.astype(kind) for kind in ("bool", "uint8", "int64", "float32")),
        *((SHAPE * 255).astype(kind) for kind in ("uint8", "uint16", "int64", "float32")),
        (SHAPE * 65535).astype(np.uint16),
        (SHAPE * 255).astype(np.uint8)[..., None],
        SHAPE.astype(bool)[None],
    ],
    ids=lambda mask: f"{mask.dtype}-{mask.max()}-{mask.ndim}d",
)
def test_masks_as_arrays_and_as_images_of_any_range(mask):
    assert np.array_equal(images.to_mask(mask), SHAPE * 255)
    if mask.ndim == 2 and mask.dtype != np.int64:
        assert np.array_equal(images.to_mask(Image.fromarray(mask)), SHAPE * 255)
        if mask.dtype != np.float32:
            assert np.array_equal(images.load_mask(stored(Image.fromarray(mask))), SHAPE * 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "CMYK", "I", "F"])
def test_masks_of_any_mode(mode):
    mask = Image.fromarray((SHAPE * 255).astype(np.uint8)).convert(mode)
    assert np.array_equal(images.to_mask(mask), SHAPE * 255)


def test_what_is_transparent_is_off_and_soft_masks_stay_soft():
    clear = Image.new("RGBA", (2, 1), (255, 255, 255, 0))
    clear.putpixel((1, 0), (255, 255, 255, 255))
    assert np.asarray(images.load_mask(stored(clear))).tolist() == [[0, 255]]
    soft = np.array([[0, 100, 200]], np.uint8)
    assert np.array_equal(images.to_mask(soft), soft)
    assert np.asarray(images.to_mask(soft / 255)).tolist() == soft.tolist()
    assert np.asarray(images.to_mask(np.zeros((2, 2)))).max() == 0
    profiled = stored(Image.fromarray(soft), icc_profile=icc.grey(1.0))  # numbers, not colours
    assert np.array_equal(images.load_mask(profiled), soft)


def cut_out_in_black() -> Image.Image:
    photo = Image.new("RGBA", (3, 2), (0, 0, 0, 0))
    photo.putpixel((1, 1), (0, 0, 0, 255))
    return photo


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.array([[0, 1, 2, 3]], np.uint8), "from 0 to 3, which is neither .* a mask is white"),
        (np.array([[0, 255 * 20]], np.uint16), "from 0 to 5100"),
        (np.array([[-1, 1]]), "from -1 to 1"),
        (np.array([[0, np.nan]]), "nan"),
        (np.array([[0, np.inf]]), "inf"),
        (np.zeros((3, 4, 5)), r"\[3, 4, 5\]"),
        (np.array([["a"]]), "a mask is numbers"),
        (np.zeros((0, 3)), r"\[0, 3\]"),
        (Image.new("RGB", (3, 2), (255, 255, 0)), "colours"),
        (cut_out_in_black(), "transparency; paint white"),
    ],
    ids=["labels", "16-bit labels", "negative", "nan", "inf", "shape", "text", "empty", "colours", "alpha"],
)
def test_masks_that_may_mean_this_or_that_are_refused(mask, message):
    with pytest.raises(images.ImageError, match=f"my mask.*({message})"):
        images.to_mask(mask, "my mask")


COLOURS = [(255, 0, 0), (0, 255, 0), (10, 60, 250), (200, 130, 90), (128, 128, 128), (0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("primaries", [icc.DISPLAY_P3, icc.ADOBE_RGB], ids=["Display P3", "Adobe RGB"])
def test_embedded_colour_profiles_are_converted_to_srgb(kind, primaries):
    """Against the formulas; the colours lie in patches large enough for JPEG."""
    photo = Image.new("RGB", (16 * len(COLOURS), 16))
    for i, colour in enumerate(COLOURS):
        photo.paste(colour, (16 * i, 0, 16 * i + 16, 16))
    settings = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}
    image = images.load_image(stored(photo, kind, icc_profile=icc.rgb(primaries), **settings.get(kind, {})))
    plain = images.load_image(stored(photo, kind, **settings.get(kind, {})))
    for i in range(len(COLOURS)):
        expected = icc.to_srgb(plain.getpixel((16 * i + 8, 8)), primaries)
        assert np.abs(expected - image.getpixel((16 * i + 8, 8))).max() <= 2, COLOURS[i]
    assert "icc_profile" not in image.info  # or it would be converted once more
    assert np.array_equal(images.to_rgb(image), image)


def test_an_image_that_pil_opened_brings_its_profile_too():
    photo = Image.new("RGB", (2, 2), (200, 130, 90))
    data = stored(photo, icc_profile=icc.rgb(icc.DISPLAY_P3))
    with Image.open(io.BytesIO(data)) as opened:
        assert np.array_equal(images.to_rgb(opened), images.load_image(data))
    assert not np.array_equal(images.load_image(data), photo)


def test_transparency_and_palettes_keep_their_profile():
    colour, profile = (200, 130, 90), icc.rgb(icc.DISPLAY_P3)
    expected = icc.to_srgb(colour, icc.DISPLAY_P3)
    photo = Image.new("RGBA", (2, 1), (*colour, 255))
    photo.putpixel((1, 0), (*colour, 0))
    image = images.load_image(stored(photo, icc_profile=profile))
    assert near(image, (0, 0), tuple(expected), 2) and near(image, (1, 0), images.NEUTRAL, 0)
    palette = Image.new("RGB", (2, 1), colour).quantize(2)
    assert near(images.load_image(stored(palette, icc_profile=profile)), (0, 0), tuple(expected), 2)


def test_grey_and_cmyk_profiles():
    value = icc.to_srgb((100,) * 3, icc.SRGB)[0]
    for mode, colour in (("L", 100), ("LA", (100, 255))):
        image = images.load_image(stored(Image.new(mode, (2, 2), colour), icc_profile=icc.grey(icc.GAMMA)))
        assert near(image, (0, 0), (value,) * 3, 2)
    linear = images.load_image(stored(Image.new("L", (2, 2), 100), icc_profile=icc.grey(1.0)))
    assert near(linear, (0, 0), (168,) * 3, 2)  # sRGB of 100/255
    sixteen = Image.fromarray(np.full((2, 2), 100 * 257, np.uint16))
    assert near(images.load_image(stored(sixteen, icc_profile=icc.grey(1.0))), (0, 0), (168,) * 3, 2)
    lab = np.zeros((2, 2, 2, 2, 3))
    lab[..., 0] = 100  # white
    lab[1, 0, 0, 0] = (53.6, 0, 0)  # this printer's cyan is mid grey
    photo = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for kind in ("JPEG", "TIFF"):
        assert near(images.load_image(stored(photo, kind, icc_profile=icc.cmyk(lab))), (8, 8), (128,) * 3, 3)


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", b"no profile"),
        ("RGB", icc.rgb(icc.DISPLAY_P3)[:200]),
        ("RGB", icc.grey(1.0)),
        ("RGB", icc.cmyk(np.zeros((2, 2, 2, 2, 3)))),
        ("CMYK", icc.rgb(icc.DISPLAY_P3)),
    ],
    ids=["text", "cut short", "grey in colours", "cmyk in rgb", "rgb in cmyk"],
)
def test_a_profile_that_cannot_be_used_is_said_and_the_image_taken_as_srgb(tmp_path, caplog, mode, profile):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    quarters().convert(mode).save(tmp_path / "a.png", kind, icc_profile=profile)
    image = images.load_image(tmp_path / "a.png")
    assert np.array_equal(image, quarters().convert(mode).convert("RGB"))
    assert f"{tmp_path / 'a.png'}: its colour profile cannot be used" in caplog.text


def test_a_profile_that_is_srgb_changes_nothing():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    assert np.array_equal(images.load_image(stored(photo, icc_profile=profile)), photo)


def test_broken_exif_data_do_not_cost_the_image(caplog):
    data = stored(quarters(), exif=b"Exif\0\0no TIFF at all")
    assert np.array_equal(images.load_image(data, "a.png"), quarters())
    assert "a.png: its EXIF data cannot be read" in caplog.text


def test_what_the_file_says_beside_its_pixels_is_not_kept():
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    image = images.load_image(stored(quarters(), "JPEG", exif=exif, comment="me"))
    assert not image.info and not image.getexif()


def test_size_is_compared_before_decoding():
    with pytest.raises(images.ImageError, match=r"a.png: \(10000, 8000\) pixels, expected \(8, 8\)"):
        images.open_image(bomb(10_000, 8_000), "a.png", (8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    with pytest.raises(images.ImageError, match=r"\(6, 8\) pixels, expected \(8, 6\)"):
        images.open_image(stored(quarters(), exif=exif), "a.png", (8, 6))
    assert images.open_image(stored(quarters()), "a.png", (8, 6)).size == (8, 6)


def test_the_limit_holds_whatever_others_do_to_pil(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    started = time.monotonic()
    with pytest.raises(images.ImageError, match="too many pixels"):
        images.open_image(bomb(13_000, 13_000))
    assert time.monotonic() - started < 1


def test_pipes_sockets_devices_and_loops_of_links_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("pipe.png")
    Path("loop.png").symlink_to("loop.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        quarters().save("a.png")
        for name, message in (
            ("pipe.png", "not a regular file"),
            ("socket.png", "not a regular file"),
            ("/dev/zero", "not a regular file"),
            ("loop.png", "no such file"),
        ):
            with pytest.raises(images.ImageError, match=message):
                images.load_image(name)
        latin = os.fsdecode(b"caf\xe9.png")
        quarters().save(latin)
        found, ignored = images.find_images(["."])
    assert [x.name for x in found] == ["a.png"]
    assert [x.name for x in ignored] == [latin, "loop.png", "pipe.png", "socket.png"]
    with pytest.raises(images.ImageError, match=r"caf\\xe9.png: its name is not UTF-8; rename it"):
        images.find_images([latin])


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Cut short, with bits turned, pieces moved or doubled, or another beginning."""
    data = bytearray(data)
    kind = chance.randrange(5)
    if kind == 0:
        return bytes(data[: chance.randrange(len(data))])
    if kind == 1:
        place = chance.randrange(len(data))
        return bytes(data[:place] + chance.randbytes(chance.randrange(1, 40)) + data[place:])
    if kind == 2:
        place, other = chance.randrange(len(data)), chance.randrange(len(data))
        data[place : place + 8] = data[other : other + 8]
        return bytes(data)
    for _ in range(chance.randrange(1, 8)):  # the first bytes tell sizes: more often there
        place = chance.randrange(len(data) if kind == 3 else min(64, len(data)))
        data[place] = chance.choice((0, 255, data[place] ^ 1 << chance.randrange(8)))
    return bytes(data)


def test_mutated_and_foreign_files_are_images_or_refused(monkeypatch):
    """Seeded. Nothing but ImageError comes out, and no other program is started."""

    def forbidden(*arguments, **settings):
        raise AssertionError(f"a program was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(os, "system", forbidden)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"exif": exif, "icc_profile": icc.rgb(icc.DISPLAY_P3)}
    kinds = {kind: more if kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF") else {} for kind in images.FORMATS}
    whole = {kind: stored(photo, kind, **settings) for kind, settings in kinds.items()}
    whole["16 bits"] = stored(Image.fromarray(np.full((4, 4), 999, np.uint16)))
    whole["palette"] = stored(photo.quantize(9), transparency=3)
    others = ("EPS", "PDF", "ICO", "ICNS", "TGA", "PCX", "SGI", "DDS", "JPEG2000")
    foreign = [stored(photo, kind) for kind in others]
    foreign += [b"%!PS\n(payload) print\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"", b"\0" * 100]
    chance = random.Random(5)
    tried = [(kind, mutated(data, chance)) for kind, data in whole.items() for _ in range(90)]
    tried += [("foreign", data) for data in foreign]
    mishandled, refused = [], 0
    for kind, data in tried:
        try:
            image = images.load_image(data, "a.png")
            if image.mode != "RGB" or image.info:
                mishandled.append((kind, data, image.mode))
        except images.ImageError as error:
            refused += 1
            if "a.png: " not in str(error) or len(str(error)) > 500:
                mishandled.append((kind, data, str(error)))
        except Exception as error:
            mishandled.append((kind, data, repr(error)))
    print(f"tried {len(tried)}, refused {refused}, mishandled {len(mishandled)}")
    assert not mishandled, mishandled[:3]
    assert len(tried) > 900 and refused > 300
    for data in foreign:
        with pytest.raises(images.ImageError, match="not an image of a known kind"):
            images.open_image(data)


def test_folders_are_read_in_order_and_tell_what_they_leave_out(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.webp"):
        quarters().save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_text("x")
    (tmp_path / "deep").mkdir()
    found, ignored = images.find_images([tmp_path, tmp_path / "a.jpg"])
    assert [x.name for x in found] == ["a.jpg", "b.PNG", "c.webp", "a.jpg"]
    assert [x.name for x in ignored] == ["notes.txt"]
    with pytest.raises(images.ImageError, match="without images"):
        images.find_images([tmp_path / "deep"])
    with pytest.raises(images.ImageError, match="no such file"):
        images.find_images([tmp_path / "none"])


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.JPG", "a.mpo"])
def test_jpegs_as_browsers_and_cameras_name_them(tmp_path, name):
    """A two-view MPO, as phones and stereo cameras write it, gives its first view."""
    options = {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (8, 8), "blue")]}
    Image.new("RGB", (8, 8), "red").save(tmp_path / name, **(options if name == "a.mpo" else {"format": "JPEG"}))
    assert images.find_images([tmp_path]) == ([tmp_path / name], [])
    assert images.load_image(tmp_path / name).getpixel((4, 4))[0] > 240


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((40, 40), (0, 0, 32, 32)),
        ((64, 32), (0, 8, 32, 24)),
        ((10, 20), (8, 0, 24, 32)),
        ((3000, 1), (0, 15, 32, 16)),
        ((1, 1), (0, 0, 32, 32)),
    ],
)
def test_a_square_holds_the_whole_image(size, box):
    square, found = images.fit_square(Image.new("RGB", size, ORANGE), 32)
    assert square.size == (32, 32) and found == box
    assert near(square, (0, 0), ORANGE) and near(square, (31, 31), ORANGE)  # margins go on as the edge


def test_margins_take_the_colour_of_the_edge_they_continue():
    image = Image.new("RGB", (60, 30), "black")
    image.paste("red", (0, 0, 60, 2))
    image.paste("red", (0, 28, 60, 30))
    square, _ = images.fit_square(image, 60)
    assert near(square, (30, 2), (255, 0, 0)) and near(square, (30, 30), (0, 0, 0))


def test_cut_out_hides_what_is_not_the_subject():
    mask = Image.new("L", (8, 6), 0)
    mask.paste(255, (0, 0, 4, 3))
    image = images.cut_out(quarters(), mask)
    assert image.getpixel((0, 0)) == (0, 0, 255) and image.getpixel((7, 5)) == images.NEUTRAL
    with pytest.raises(ValueError, match="must agree"):
        images.cut_out(quarters(), Image.new("L", (6, 8)))


def test_tensors_and_back_are_exact():
    photo = Image.fromarray(np.arange(256 * 3, dtype=np.uint32).reshape(16, 16, 3).astype(np.uint8))
    pixels = images.to_tensor([photo, photo])
    assert pixels.shape == (2, 3, 16, 16) and pixels.dtype == torch.float32
    assert pixels.min() == -1 and pixels.max() == 1
    assert images.to_tensor([Image.new("L", (4, 3))]).shape == (1, 1, 3, 4)
    for back in images.to_pil(pixels):
        np.testing.assert_array_equal(np.asarray(back), np.asarray(photo))
    assert np.asarray(images.to_pil(pixels * 3)[0]).max() == 255  # clipped, not wrapped


def test_latents_have_scale_and_shift_undone(tiny_components):
    vae = tiny_components["vae"]
    vae.register_to_config(scaling_factor=0.25, shift_factor=0.5)
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = encode_pixels(vae, pixels)
        expected = vae.encode(pixels).latent_dist.mode()
        torch.testing.assert_close(latents, (expected - 0.5) * 0.25)
        torch.testing.assert_close(decode_latents(vae, latents), vae.decode(expected).sample)


def test_contact_sheet_places_images_and_captions():
    blue, red = Image.new("RGB", (10, 10), "blue"), Image.new("RGB", (20, 10), "red")
    sheet = contact_sheet([[(None, ""), (blue, "blue " * 40)], [(red, "")]], tile=50, gap=4)
    assert sheet.width == 4 + 2 * 54
    pixels = np.asarray(sheet)
    assert (pixels[4:54, 4:54] == 255).all()  # the empty place
    assert (pixels[5:53, 60:106] == (0, 0, 255)).all()
    assert (pixels[54:110, 58:] == 0).all(-1).any()  # the caption, black
    assert (pixels[:, 108:] == 255).all()  # and nothing runs over the edge
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([[]])


@needs_dreambooth
def test_real_photographs():
    files, _ = images.find_images([DREAMBOOTH / "dog", DREAMBOOTH / "vase"])
    assert len(files) >= 8
    for file in files[::4]:
        square, _ = images.fit_square(images.load_image(file), 64)
        assert square.size == (64, 64) and np.asarray(square).std() > 10


def test_an_image_in_its_slot_of_a_row():
    from jedi.io.images import fit_square, place_in_row

    image = Image.effect_noise((90, 60), 80).convert("RGB")
    for slots, slot, left in ((2, 0, 0), (2, 1, 32), (3, 1, 21), (3, 2, 42)):
        side = 64 // slots
        row = place_in_row(image, slot, slots, 64, 64)
        box = (left, (64 - side) // 2, left + side, (64 - side) // 2 + side)
        assert row.size == (64, 64) and row.crop(box).tobytes() == fit_square(image, side)[0].tobytes()
        rest = np.asarray(row).copy()
        rest[box[1] : box[3], box[0] : box[2]] = rest[0, 0]
        assert (rest == rest[0, 0]).all()
        assert np.abs(rest[0, 0].astype(int) - 128).max() < 40  # the mean of the edge
    assert place_in_row(image, 0, 1, 64, 64).tobytes() == fit_square(image, 64)[0].tobytes()
    wide = place_in_row(image, 1, 2, 64, 16)  # in the middle of its half
    assert wide.size == (64, 16) and wide.crop((40, 0, 56, 16)).tobytes() == fit_square(image, 16)[0].tobytes()
