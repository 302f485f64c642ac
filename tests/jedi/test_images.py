"""jedi.images: what people have in their folders, and what they should not have."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jedi import images

ORANGE = (255, 128, 0)
DREAMBOOTH = Path(__file__).resolve().parents[3] / "shared" / "dreambooth"


def quarters(size=(8, 6)) -> Image.Image:
    """Orange, blue in the top left quarter: no two turns of it look alike."""
    image = Image.new("RGB", size, ORANGE)
    image.paste((0, 0, 255), (0, 0, size[0] // 2, size[1] // 2))
    return image


def near(image: Image.Image, place: tuple[int, int], colour: tuple, tolerance: int = 4) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(image.getpixel(place), colour, strict=True))


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "bmp", "gif"])
def test_formats_give_the_same_rgb_picture(tmp_path, suffix):
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
        (b"", "not a picture"),
        (b"hello world, this is text", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (truncated("PNG"), "broken or cut short"),
        (truncated("JPEG"), "broken or cut short"),
        (truncated("WEBP"), "broken or cut short|not a picture"),
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


def test_masks(tmp_path):
    Image.new("1", (4, 4), 1).save(tmp_path / "1.png")
    Image.new("RGBA", (4, 4), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    assert images.load_mask(tmp_path / "1.png").getextrema() == (255, 255)
    assert images.load_mask(tmp_path / "clear.png").getextrema() == (0, 0)
    assert images.load_mask(tmp_path / "1.png").mode == "L"


def test_folders_are_read_in_order_and_tell_what_they_leave_out(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.webp"):
        quarters().save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_text("x")
    (tmp_path / "deep").mkdir()
    found, ignored = images.find_images([tmp_path, tmp_path / "a.jpg"])
    assert [x.name for x in found] == ["a.jpg", "b.PNG", "c.webp", "a.jpg"]
    assert [x.name for x in ignored] == ["notes.txt"]
    with pytest.raises(images.ImageError, match="without pictures"):
        images.find_images([tmp_path / "deep"])
    with pytest.raises(images.ImageError, match="no such file"):
        images.find_images([tmp_path / "none"])


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
def test_a_square_holds_the_whole_picture(size, box):
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
    picture = Image.fromarray(np.arange(256 * 3, dtype=np.uint32).reshape(16, 16, 3).astype(np.uint8))
    pixels = images.to_tensor([picture, picture])
    assert pixels.shape == (2, 3, 16, 16) and pixels.dtype == torch.float32
    assert pixels.min() == -1 and pixels.max() == 1
    assert images.to_tensor([Image.new("L", (4, 3))]).shape == (1, 1, 3, 4)
    for back in images.to_pil(pixels):
        np.testing.assert_array_equal(np.asarray(back), np.asarray(picture))
    assert np.asarray(images.to_pil(pixels * 3)[0]).max() == 255  # clipped, not wrapped


def test_latents_have_scale_and_shift_undone(tiny_components):
    vae = tiny_components["vae"]
    vae.register_to_config(scaling_factor=0.25, shift_factor=0.5)
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        latents = images.encode_pixels(vae, pixels)
        expected = vae.encode(pixels).latent_dist.mode()
        torch.testing.assert_close(latents, (expected - 0.5) * 0.25)
        torch.testing.assert_close(images.decode_latents(vae, latents), vae.decode(expected).sample)


def test_contact_sheet_places_pictures_and_captions():
    blue, red = Image.new("RGB", (10, 10), "blue"), Image.new("RGB", (20, 10), "red")
    sheet = images.contact_sheet([[(None, ""), (blue, "blue " * 40)], [(red, "")]], tile=50, gap=4)
    assert sheet.width == 4 + 2 * 54
    pixels = np.asarray(sheet)
    assert (pixels[4:54, 4:54] == 255).all()  # the empty place
    assert (pixels[5:53, 60:106] == (0, 0, 255)).all()
    assert (pixels[54:110, 58:] == 0).all(-1).any()  # the caption, black
    assert (pixels[:, 108:] == 255).all()  # and nothing runs over the edge
    with pytest.raises(ValueError, match="at least one"):
        images.contact_sheet([[]])


@pytest.mark.skipif(not DREAMBOOTH.is_dir(), reason="needs the DreamBooth photographs in ../shared")
def test_real_photographs():
    files, _ = images.find_images([DREAMBOOTH / "dog", DREAMBOOTH / "vase"])
    assert len(files) >= 8
    for file in files[::4]:
        square, _ = images.fit_square(images.load_image(file), 64)
        assert square.size == (64, 64) and np.asarray(square).std() > 10


def test_a_picture_in_its_slot_of_a_row():
    from jedi.images import fit_square, place_in_row

    image = Image.effect_noise((90, 60), 80).convert("RGB")
    for slots, slot, left in ((2, 0, 0), (2, 1, 32), (3, 1, 21), (3, 2, 42)):
        side = 64 // slots
        row = place_in_row(image, slot, slots, 64)
        box = (left, (64 - side) // 2, left + side, (64 - side) // 2 + side)
        assert row.size == (64, 64) and row.crop(box).tobytes() == fit_square(image, side)[0].tobytes()
        rest = np.asarray(row).copy()
        rest[box[1] : box[3], box[0] : box[2]] = rest[0, 0]
        assert (rest == rest[0, 0]).all()
        assert np.abs(rest[0, 0].astype(int) - 128).max() < 40  # the mean of the edge
    assert place_in_row(image, 0, 1, 64).tobytes() == fit_square(image, 64)[0].tobytes()
