"""Contact sheets: rows of images with captions under them, each letter in a font of this machine that has it.

Only PIL is imported here.
"""

from __future__ import annotations

import functools
import logging
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from PIL import Image, ImageDraw, ImageFont, ImageOps

from jedi.errors import InputError
from jedi.io.images import to_rgb

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

log = logging.getLogger(__name__)

FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf",  # Latin, Greek, Cyrillic, some Arabic
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc",
    "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "NotoSansArabic-Regular.ttf", "NotoNaskhArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf",
    "NotoEmoji-Regular.ttf", "Symbola_hint.ttf", "unifont.otf", "unifont_upper.otf",
    "Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc",  # macOS
    "msyh.ttc", "malgun.ttf", "YuGothR.ttc", "arial.ttf", "seguiemj.ttf",  # Windows
)  # fmt: skip
"""Asked for, by file name, where the system keeps its fonts, when PIL's own font lacks a letter."""

Piece = tuple["FreeTypeFont", str]
"""A letter, or letters that follow one another, and their font."""


def contact_sheet(
    rows: Sequence[Sequence[tuple[Image.Image | None, str]]], tile: int = 160, gap: int = 8, lines: int = 4
) -> Image.Image:
    """Rows of images with captions under them, on white.

    Each cell is ``(image, caption)``; ``None`` leaves its place empty. Images are fitted into ``tile``
    pixels, captions wrapped to at most ``lines`` lines; letters that no font of this machine has are shown by their
    numbers, with a warning. Raises ``InputError`` if there is no cell.
    """
    if not any(rows):
        raise InputError("a contact sheet needs at least one image")
    letters = Typesetter()
    captions = [[letters.lines(caption, tile, lines) for _, caption in row] for row in rows]
    heights = [tile + letters.line_height * max((len(text) for text in row), default=0) + gap for row in captions]
    columns = max(map(len, rows))
    sheet = Image.new("RGB", (gap + columns * (tile + gap), gap + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    top = gap
    for row, texts, height in zip(rows, captions, heights, strict=True):
        for column, ((image, _), text) in enumerate(zip(row, texts, strict=True)):
            left = gap + column * (tile + gap)
            if image is not None:
                fitted = ImageOps.contain(to_rgb(image), (tile, tile))
                sheet.paste(fitted, (left + (tile - fitted.width) // 2, top + (tile - fitted.height) // 2))
            for i, line in enumerate(text):
                letters.draw(draw, (left, top + tile + i * letters.line_height), line)
        top += height
    letters.say_what_lacks()
    return sheet


class Typesetter:
    """Sets captions in ``size`` pixels. Letters that no font has are set as "U+4E2D", and kept in ``lacking``."""

    def __init__(self, size: int = 12) -> None:
        self.size, self.lacking = size, set[str]()
        self.line_height = sum(_own_font(size).getmetrics()) + 2

    def lines(self, text: str, width: int, most: int) -> list[list[Piece]]:
        """``text`` in at most ``most`` lines of ``width`` pixels; an ellipsis for what is left out.

        Lines end between words, in words that are too long for a line, and after any letter of Chinese or Japanese.
        The time that it takes grows with what is shown, not with the text.
        """
        lines: list[list[Piece]] = [[]]
        room = float(width)
        for spaced, word in self._words(text[: 8 * most * width]):
            needed = sum(map(_length, word))
            space = [(lines[-1][-1][0], " ")] if spaced and lines[-1] else []  # one font: Arabic goes leftwards
            gap = sum(map(_length, space))
            if lines[-1] and gap + needed > room:
                lines.append([])
                room, space = float(width), []
            for piece in [*space, *word]:
                if lines[-1] and _length(piece) > room:
                    lines.append([])
                    room = float(width)
                lines[-1].append(piece)
                room -= _length(piece)
            if len(lines) > most:
                return [*lines[: most - 1], self._cut(lines[most - 1], width)]
        return lines if lines[0] else []

    def draw(self, canvas: ImageDraw.ImageDraw, place: tuple[float, float], line: list[Piece]) -> None:
        """Draws a line, black, with its top left corner at ``place``."""
        left, top = place
        baseline = top + _own_font(self.size).getmetrics()[0]
        for font, text in _joined(line):
            canvas.text((left, baseline), text, fill="black", font=font, anchor="ls", embedded_color=True)
            left += font.getlength(text)

    def say_what_lacks(self) -> None:
        """One warning about the letters that no font has, if there were any."""
        if self.lacking:
            some = ", ".join(f"U+{ord(x):04X}" for x in sorted(self.lacking)[:5])
            log.warning(
                "captions on contact sheets: no font here has %d of their letters (%s); their numbers are shown. "
                "Install fonts, of Debian for instance fonts-dejavu-core, fonts-noto-cjk, fonts-unifont",
                len(self.lacking), some,
            )  # fmt: skip

    def _words(self, text: str) -> Iterator[tuple[bool, list[Piece]]]:
        """Each word as pieces, and whether a space stands before it; every wide letter is a word of its own."""
        for word in text.split():
            spaced = True
            pieces: list[Piece] = []
            for char in word:
                wide = unicodedata.east_asian_width(char) in "WF"
                if wide and pieces:
                    yield spaced, pieces
                    spaced, pieces = False, []
                pieces += self._pieces(char, pieces[-1][0] if pieces else None)
                if wide:
                    yield spaced, pieces
                    spaced, pieces = False, []
            if pieces:
                yield spaced, pieces

    def _pieces(self, char: str, before: FreeTypeFont | None) -> list[Piece]:
        """The letter in the font of the letter before it, else in the first that has it, else its number."""
        if unicodedata.category(char) == "Cf" or "\ufe00" <= char <= "\ufe0f":  # joiners and the like show nothing
            return [(before, char)] if before is not None else []
        marks = [before] if unicodedata.category(char).startswith("M") else []
        for font in (*marks, _own_font(self.size), *(_font(name, self.size) for name in FONTS)):
            if font is not None and _has(font, char):
                return [(font, char)]
        self.lacking.add(char)
        return [(_own_font(self.size), x) for x in f"U+{ord(char):04X}"]

    def _cut(self, line: list[Piece], width: int) -> list[Piece]:
        """The beginning of a line and an ellipsis."""
        line, dots = list(line), (_own_font(self.size), " ...")
        while line and sum(map(_length, line)) + _length(dots) > width:
            line.pop()
        return [*line, dots]


def _joined(line: list[Piece]) -> Iterator[Piece]:
    """Letters of one font together, so that they are shaped together, as Arabic must be."""
    start = 0
    for i in range(1, len(line) + 1):
        if i == len(line) or line[i][0] is not line[start][0]:
            yield line[start][0], "".join(text for _, text in line[start:i])
            start = i


@functools.cache
def _own_font(size: int) -> FreeTypeFont:
    """PIL's own font, which scales."""
    return cast("FreeTypeFont", ImageFont.load_default(size))


@functools.cache
def _font(name: str, size: int) -> FreeTypeFont | None:
    """A font of the system, None where there is no such font."""
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@functools.lru_cache(maxsize=1 << 14)
def _has(font: FreeTypeFont, char: str) -> bool:
    """Whether a font has a letter: PIL doesn't tell, but what is missing is drawn as U+FFFF is, which is none.

    A mark that is missing may have a dotted circle before that.
    """
    if unicodedata.category(char) in ("Cs", "Cc", "Cn", "Co"):
        return False
    return _drawn(font, char) not in (_drawn(font, x) for x in ("", "\uffff", "\u25cc\uffff"))


def _drawn(font: FreeTypeFont, text: str) -> bytes:
    canvas = Image.new("RGB", (4 * int(font.size),) * 2, "white")
    ImageDraw.Draw(canvas).text((font.size, font.size), text, fill="black", font=font, embedded_color=True)
    return canvas.tobytes()


@functools.lru_cache(maxsize=1 << 14)
def _length(piece: Piece) -> float:
    return piece[0].getlength(piece[1])
