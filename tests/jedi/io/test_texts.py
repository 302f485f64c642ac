"""Text files as people save them."""

import os

import pytest

from jedi.errors import InputError
from jedi.io.texts import read_json, read_lines, read_text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        (b"\xef\xbb\xbfa", "a"),
        ("\ufeff\u72d0".encode("utf-16-le"), "\u72d0"),
        ("\ufeff\u72d0".encode("utf-16-be"), "\u72d0"),
    ],
)
def test_text(tmp_path, data, text):
    (tmp_path / "a.txt").write_bytes(data)
    assert read_text(tmp_path / "a.txt") == text


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"it\x92s", "byte 0x92 at position 2"),
        ("a".encode("utf-16-le"), "zero bytes"),
        (b"\xff\xfea", "byte 0x61 at position 2"),
    ],
)
def test_other_encodings_are_named(tmp_path, data, found):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(InputError, match=rf"a\.txt: not a text file in UTF-8 \({found}.*save it as UTF-8"):
        read_text(tmp_path / "a.txt")
    with pytest.raises(InputError, match="^--prompts F: not a text"):
        read_lines(tmp_path / "a.txt", "--prompts F")


def test_lines_end_where_an_editor_shows_it(tmp_path):
    (tmp_path / "a.txt").write_bytes("a dog\u2028on a beach\x0b \r\n\r\n \u00a0\n a cat\u0085".encode())
    assert read_lines(tmp_path / "a.txt") == ["a dog\u2028on a beach", "a cat"]


@pytest.mark.parametrize("text", ["{,}", "[" * 100_000, "{'a': 1}", "{\u201ca\u201d: 1}"])
def test_what_is_no_json_is_named_with_its_place(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.json: not JSON: .*(line 1|recursion)"):
        read_json(tmp_path / "a.json")


def test_pipes_are_refused_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(InputError, match="a.txt: not a regular file"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("text", ['["\\ud83d"]', '{"a": "x\\uDE00"}', "9" * 5000])
def test_json_that_no_file_could_hold_again_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match="a.json: not JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('["\\ud83d\\ude00"]')
    assert read_json(tmp_path / "a.json") == ["\N{GRINNING FACE}"]
