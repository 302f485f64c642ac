"""The folder source: a user's own photos, and everything that can be wrong with them."""

import json
import os
import shutil
import socket
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_gen.__main__ import main
from data_gen.samples import Dropped, Item
from data_gen.sources import SOURCES
from data_gen.sources.folder import Folder, FolderSettings
from data_gen.sources.subjects import is_held_out, same_name, share_out, slug, split_of
from jedi.errors import InputError
from jedi.io.config import ConfigError
from tests.data_gen.conftest import section
from tests.data_gen.pipelines import context


def photo(path: Path, colour: int = 0, size: tuple[int, int] = (24, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour % 256, 40, 200)).save(path)
    return path


def mask(path: Path, size: tuple[int, int] = (24, 16)) -> Path:
    image = Image.new("L", size)
    image.paste(255, (4, 4, 12, 12))
    image.save(path)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three subjects of 3, 7 and 1 photos."""
    for subject, count in {"red_mug": 3, "dog2": 7, "teapot": 1}.items():
        for number in range(count):
            photo(tmp_path / "photos" / subject / f"{number:02}.png", 10 * number)
    (tmp_path / "photos" / "LICENCE.md").write_text("CC0")
    (tmp_path / "photos" / "dog2" / ".DS_Store").write_text("")
    return tmp_path / "photos"


def source(path: Path, changes=None, **section) -> Folder:
    section = {"heldout_fraction": 0.0, **section}
    common = {"images_per_set": 4, "sets": 100, "heldout_sets": 100, **(changes or {})}
    return Folder(FolderSettings(path=str(path), **section), context(**common))


def made(one: Folder, split: str = "train") -> list:
    return list(one.make([Item(split, index) for index in range(one.sizes()[split])]))


def files(one) -> list[str]:
    return [described["file"] for described in one.attributes]


def test_all_photos_come_once_and_alone_ones_are_dropped(photos):
    one = source(photos)
    assert one.sizes() == {"train": 4, "heldout": 0}
    first, second, third, fourth = made(one)
    assert files(first) == ["dog2/00.png", "dog2/02.png", "dog2/04.png", "dog2/06.png"]
    assert files(second) == ["dog2/01.png", "dog2/03.png", "dog2/05.png"]
    assert files(third) == ["red_mug/00.png", "red_mug/01.png", "red_mug/02.png"]
    assert fourth == Dropped("train-00000003", "too few images", {"images": 1})
    assert first.subject == {"id": "dog2", "name": "dog2", "class": "dog2"}
    assert third.subject == {"id": "red-mug", "name": "red mug", "class": "red mug"}
    assert third.captions == ["a photo of a red mug"] * 3
    assert first.images[1].getpixel((0, 0)) == (20, 40, 200)
    assert first.masks == [None] * 4 and one.gives == {"images"} and not Folder.uses_model
    json.dumps([first.subject, first.attributes, first.provenance])
    assert SOURCES.get("folder") is Folder


def test_photos_are_shared_out_evenly():
    for count in range(1, 30):
        sets = share_out(range(count), 4)
        assert sorted(x for one in sets for x in one) == list(range(count))
        sizes = {len(one) for one in sets}
        assert max(sizes) <= 4 and max(sizes) - min(sizes) <= 1 and len(sets) == -(-count // 4)


def test_the_grouping_does_not_matter(photos):
    one = source(photos)
    items = [Item("train", index) for index in range(4)]
    alone = [x for item in reversed(items) for x in source(photos).make([item])]
    for a, b in zip(one.make(items), reversed(alone), strict=True):
        if isinstance(a, Dropped):
            assert a == b
            continue
        assert replace(a, images=[]) == replace(b, images=[])
        assert [x.tobytes() for x in a.images] == [x.tobytes() for x in b.images]


def test_no_more_sets_than_wanted(photos):
    assert source(photos, {"sets": 2}).sizes() == {"train": 2, "heldout": 0}


def test_frames_of_a_film(photos):
    first, *_ = made(source(photos, every_nth=3))
    assert files(first) == ["dog2/00.png", "dog2/03.png", "dog2/06.png"]


def test_captions_and_names(photos):
    (photos / "dog2" / "00.txt").write_text("  my dog\n on the sofa \n", encoding="utf-8")
    (photos / "dog2" / "01.txt").write_text(" \n")
    (photos / "subjects.json").write_text(json.dumps({"dog2": {"name": "old corgi", "class": "dog"}}))
    first, second, *_ = made(source(photos, caption="{a_name}, {a_class}", licence="CC0-1.0"))
    assert first.captions == ["my dog on the sofa", *["an old corgi, a dog"] * 3]
    assert second.captions == ["an old corgi, a dog"] * 3
    assert first.subject == {"id": "dog2", "name": "old corgi", "class": "dog"}
    assert first.licence == "CC0-1.0"


@pytest.mark.parametrize(
    "saved",
    [
        b"\xef\xbb\xbfa dog, \xe2\x80\x9cRex\xe2\x80\x9d\r\n",  # Notepad
        "\ufeffa dog, \u201cRex\u201d\r\n".encode("utf-16-le"),  # its "Unicode"
        "\ufeff a dog,\n\n \u201cRex\u201d".encode("utf-16-be"),
        "a dog,\r\u00a0\u201cRex\u201d\r".encode(),
    ],
)
def test_captions_of_any_editor(photos, saved):
    (photos / "dog2" / "00.txt").write_bytes(saved)
    assert made(source(photos))[0].captions[0] == "a dog, \u201cRex\u201d"


@pytest.mark.parametrize("name", ["00.TXT", "00.png.txt", "00.caption", "00.PNG.txt"])
def test_captions_as_other_tools_name_them(photos, name):
    if "PNG" in name:
        (photos / "dog2" / "00.png").rename(photos / "dog2" / "00.PNG")
    before = source(photos).inputs()
    (photos / "dog2" / name).write_text("Rex")
    one = source(photos)
    assert made(one)[0].captions[0] == "Rex" and one.inputs() != before
    (photos / "dog2" / "00.txt").write_text("Max")
    with pytest.raises(ConfigError, match=r"share a name|are both captions of 00\.(png|PNG)"):
        source(photos).sizes()


@pytest.mark.parametrize("saved", [b"a dog\x92s ball", "a dog".encode("utf-16-le"), b"\xff\xfe\xff"])
def test_captions_in_other_encodings_are_refused(photos, saved):
    (photos / "dog2" / "00.txt").write_bytes(saved)
    with pytest.raises(InputError, match="00.txt: not a text file in UTF-8 .*save it as UTF-8"):
        made(source(photos))


@pytest.mark.parametrize("name", ["._00.png", "Thumbs.db", ".ipynb_checkpoints/00.png", "@eaDir/00.png", "desktop.ini"])
def test_what_systems_leave_among_photos_is_no_photo(photos, name):
    before = source(photos).inputs()
    (photos / "dog2" / name).parent.mkdir(exist_ok=True)
    (photos / "dog2" / name).write_bytes(b"\0\5\x16\7")
    photo(photos / "__MACOSX" / "dog2" / "00.png")
    assert source(photos).inputs() == before


@pytest.mark.parametrize("name", ["00.mask.PNG", "00.Mask.webp"])
def test_masks_of_any_kind_are_no_photos(photos, name):
    mask(photos / "dog2" / name)
    first = made(source(photos))[0]
    assert files(first)[:2] == ["dog2/00.png", "dog2/02.png"] and first.masks[0].getbbox() == (4, 4, 12, 12)
    mask(photos / "dog2" / "01-masklabel.png")
    with pytest.raises(ConfigError, match=r"01-masklabel.png: is this a mask\? Here its name is 01\.mask\.png"):
        source(photos).sizes()


def test_subjects_json_of_any_editor(photos):
    for encoding in ("utf-8-sig", "utf-16"):
        (photos / "subjects.json").write_text('{"dog2": {"name": "b\u00f6ser Hund"}}', encoding=encoding)
        assert made(source(photos))[0].subject["name"] == "b\u00f6ser Hund"


def test_masks(photos):
    for path in sorted(photos.glob("*/*.png")):
        mask(path.with_name(path.stem + ".mask.png"))
    one = source(photos)
    assert one.gives == {"images", "masks"}
    first = made(one)[0]
    assert len(first.images) == 4  # masks are no photos
    assert first.masks[0].getbbox() == (4, 4, 12, 12) and first.masks[0].mode == "L"
    (photos / "dog2" / "00.mask.png").unlink()
    one = source(photos)
    assert one.gives == {"images"}
    assert made(one)[0].masks[0] is None
    mask(photos / "dog2" / "00.mask.png", (5, 5))
    with pytest.raises(ConfigError, match=r"00.mask.png has \(5, 5\) pixels, its image \(24, 16\)"):
        made(source(photos))
    (photos / "dog2" / "00.png").unlink()
    with pytest.raises(ConfigError, match="00.mask.png: a mask without its image"):
        source(photos).sizes()


def test_broken_images(photos):
    (photos / "red_mug" / "01.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match="red_mug/01.png: not an image .*folder.unreadable=drop"):
        made(source(photos))
    third = made(source(photos, unreadable="drop"))[2]
    assert files(third) == ["red_mug/00.png", "red_mug/02.png"]
    assert third.provenance["unreadable"] == ["01.png"]
    (photos / "red_mug" / "00.png").write_bytes((photos / "red_mug" / "02.png").read_bytes()[:60])
    assert made(source(photos, unreadable="drop"))[2] == Dropped("train-00000002", "unreadable images", {"images": 1})


def test_inputs_are_the_contents(photos):
    before = source(photos).inputs()
    assert before == source(photos).inputs() and list(before) == ["photos in folder.path"]
    seen = {before["photos in folder.path"]}
    for change in (
        lambda: photo(photos / "dog2" / "00.png", 99),
        lambda: (photos / "dog2" / "00.txt").write_text("a dog"),
        lambda: mask(photos / "dog2" / "00.mask.png"),
        lambda: (photos / "dog2" / "06.png").rename(photos / "dog2" / "07.png"),
        lambda: (photos / "subjects.json").write_text("{}"),
    ):
        change()
        seen.add(source(photos).inputs()["photos in folder.path"])
    assert len(seen) == 6
    (photos / "LICENCE.md").write_text("other")  # no part of the sets
    assert source(photos).inputs()["photos in folder.path"] in seen


def test_the_split_is_by_name(tmp_path):
    for number in range(40):
        for i in range(2):
            photo(tmp_path / "photos" / f"thing {number}" / f"{i}.png")
    one = source(tmp_path / "photos", heldout_fraction=0.25)
    assert one.sizes()["train"] + one.sizes()["heldout"] == 40 and 4 <= one.sizes()["heldout"] <= 16
    ids = {split: {x.subject["id"] for x in made(one, split)} for split in ("train", "heldout")}
    assert not ids["train"] & ids["heldout"]
    (tmp_path / "photos" / "thing 3").rename(tmp_path / "photos" / "Thing_3")
    again = source(tmp_path / "photos", heldout_fraction=0.25)
    assert {x.subject["id"] for x in made(again, "heldout")} == ids["heldout"]
    assert source(tmp_path / "photos", heldout_fraction=1.0).sizes() == {"train": 0, "heldout": 40}


def empty(root):
    (root / "empty").mkdir()


def outside(root):
    photo(root.parent / "secret.png")
    (root / "dog2" / "x.png").symlink_to(root.parent / "secret.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: photo(root / "DOG 2" / "0.png"), "DOG 2 and .*dog2 name the same subject"),
        (empty, "empty: a subject's folder without images"),
        (lambda root: photo(root / "00.png"), "00.png: expected a folder for each subject"),
        (lambda root: photo(root / "dog2" / "deeper" / "0.png"), "deeper: photos must be in their subject's folder"),
        (lambda root: photo(root / "dog2" / "00.jpg"), "00.png and .*00.jpg share a name"),
        (lambda root: (root / "dog2" / "film.mp4").write_bytes(b""), "films are not read; .*ffmpeg"),
        (outside, "leads out of"),
        (lambda root: (root / "link").symlink_to(root.parent), "leads out of"),
        (lambda root: (root / "subjects.json").write_text('{"a": 1,}'), "subjects.json: not JSON: .*line 1 column 9"),
        (lambda root: (root / "subjects.json").write_text('{"dog2": {"nmae": "x"}}'), "subjects.json: expected"),
        (lambda root: (root / "subjects.json").write_text('{"dog3": {"name": "x"}}'), "names 'dog3'"),
    ],
)
def test_what_cannot_be_meant(photos, change, said):
    assert source(photos).sizes()
    change(photos)
    with pytest.raises(InputError, match=said):
        source(photos).sizes()


def test_links_inside_the_folder_are_followed(photos):
    (photos / "red_mug" / "03.png").symlink_to(photos / "dog2" / "00.png")
    assert len(made(source(photos))[2].images) == 4


@pytest.mark.parametrize("out", ["", "data", "dog2/data", "../photos/data", "../link"])
def test_what_is_written_never_lies_among_the_photos(photos, monkeypatch, capsys, out):
    """It would be taken for photos ever after. Nothing is left there."""
    (photos.parent / "link").symlink_to(photos / "dog2")
    before = sorted(photos.rglob("*"))
    assert main(["run", f"out={photos / out}", "source=folder", f"folder.path={photos}", "stages=[resize]"]) == 2
    assert "is inside folder.path=" in capsys.readouterr().err and sorted(photos.rglob("*")) == before


def test_a_data_set_without_a_set_is_no_success(photos, capsys):
    """The report is there, to see why."""
    out = photos.parent / "out"
    command = [f"out={out}", "source=folder", f"folder.path={photos}", "resolution=32", "workers=1"]
    strict = ["stages=[filter,resize]", "filter.sharpness.min_score=1e6", "filter.identity.min_mean=null"]
    assert main(["run", *command, *strict]) == 2
    assert "holds no set: sharpness below 1e+06 (3), too few images (1); loosen what" in capsys.readouterr().err
    assert (out / "report" / "report.html").is_file()


def test_one_subject_leaves_none_to_hold_out(photos, capsys):
    for subject in ("dog2", "teapot"):
        shutil.rmtree(photos / subject)
    command = [f"out={photos.parent / 'out'}", "source=folder", f"folder.path={photos}", "resolution=32", "workers=1"]
    assert main(["run", *command, "stages=[resize]"]) == 0
    assert "no set is held out, so nothing measures" in capsys.readouterr().out
    assert main(["run", *command, "stages=[resize]", "heldout_sets=0", f"out={photos.parent / 'other'}"]) == 0
    assert "held out" not in capsys.readouterr().out


def test_no_folder(tmp_path):
    with pytest.raises(ConfigError, match="folder.path is empty"):
        Folder(FolderSettings(), context())
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        source(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="has no folders; expected"):
        source(tmp_path).sizes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"caption": "{nme}"}, "'nme' is not a placeholder"),
        ({"every_nth": 0}, "folder.every_nth is 0"),
        ({"min_images": 0}, "folder.min_images is 0"),
        ({"unreadable": "skip"}, "folder.unreadable is 'skip'"),
        ({"heldout_fraction": 2.0}, "folder.heldout_fraction"),
    ],
)
def test_impossible_settings(settings, said):
    with pytest.raises(ConfigError, match=said):
        section("folder", **settings)


def test_dreambooth(root):
    photos = root.parent / "shared" / "dreambooth"
    if not photos.is_dir():
        pytest.skip("the DreamBooth photos are not on this machine")
    one = source(photos, heldout_fraction=0.1)
    sizes = one.sizes()
    assert len(one.subjects) == 30 and sizes["train"] > sizes["heldout"] > 0
    used = [photo.file for sets in one.sets.values() for _, chosen in sets for photo in chosen]
    assert sorted(used) == sorted(photos.glob("*/*.jpg"))
    first, second = one.make([Item("train", 0), Item("heldout", 0)])
    assert first.subject["name"] == "backpack" and first.captions[0] == "a photo of a backpack"
    assert min(min(image.size) for image in first.images) > 256
    assert np.asarray(second.images[0]).std() > 10


# --- what phones and file systems bring ---

HELD_OUT = ["subject 9", "subject 11", "subject 29", "subject 35"]
NAMES = ("café_crème", "Zoë", "ёжик", "Ångström", "한국 인형", "が")


@pytest.mark.parametrize("name", NAMES)
def test_a_subject_is_one_however_its_accents_are_written(tmp_path, name):
    """macOS writes names decomposed (NFD), others composed (NFC): no such pair may fall into train and held-out."""
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    assert len({same_name(x) for x in forms}) == len({slug(x) for x in forms}) == 1
    assert all(split_of(forms[0], i / 50) == split_of(forms[1], i / 50) for i in range(51))
    for form in forms:
        photo(tmp_path / "photos" / form / "1.png")
    with pytest.raises(ConfigError, match="name the same subject"):
        source(tmp_path / "photos").sizes()


def test_names_written_in_two_ways_fit_together(tmp_path):
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for number in range(2):
        photo(tmp_path / "photos" / nfd / f"{nfd}{number}.png")
        (tmp_path / "photos" / nfd / f"{nfc}{number}.txt").write_text(f"cup {number}")
    (tmp_path / "photos" / "subjects.json").write_text(json.dumps({nfc: {"class": "cup"}}))
    [one] = made(source(tmp_path / "photos"))
    assert one.captions == ["cup 0", "cup 1"]
    assert one.subject == {"id": nfc, "name": nfc, "class": "cup"}


def test_names_that_differ_are_different_subjects(tmp_path):
    """Hindi's vowels are marks, and an emoji has no letter: neither may be dropped from a name."""
    names = ["कि", "का", "\N{FOX FACE}", "\N{DOG FACE}", "red mug", "red mug 2"]
    assert len({same_name(x) for x in names}) == len(names)
    for name in names:
        photo(tmp_path / "photos" / name / "1.png")
    assert len({subject.about["id"] for subject in source(tmp_path / "photos").subjects}) == len(names)


def test_the_split_of_plain_names_is_as_it_always_was():
    held_out = [name for name in (f"subject {i}" for i in range(40)) if is_held_out(same_name(name))]
    assert held_out == HELD_OUT
    assert (same_name("Red-Mug_2"), slug("Red  Mug_2")) == ("redmug2", "red-mug-2")


RUN = ["source=folder", "folder.heldout_fraction=0", "resolution=16", "stages=[resize]", "workers=1"]


@pytest.mark.slow
def test_files_that_are_not_read_are_counted_and_told(photos, tmp_path, capsys):
    for name in ("IMG_1.HEIC", "IMG_2.heic", "notes.md", "noending"):
        (photos / "dog2" / name).write_bytes(b"x")
    os.mkfifo(photos / "dog2" / "04.txt")
    one = source(photos)
    assert one.left_out() == {
        ".heic: not a kind that is read": 2,
        ".md: not a kind that is read": 1,
        "without an ending: not a kind that is read": 1,
        "no regular file (a pipe, a socket, or a link that leads nowhere)": 1,
    }
    out = tmp_path / "out"
    assert main(["run", f"out={out}", f"folder.path={photos}", *RUN]) == 0
    assert "left out 2 files: .heic: not a kind that is read" in capsys.readouterr().out
    assert json.loads((out / "statistics.json").read_text())["left_out_files"] == one.left_out()
    assert "Not used: 2 files, .heic: not a kind that is read." in (out / "DATA_CARD.md").read_text()
    assert ".heic: not a kind that is read" in (out / "report" / "report.html").read_text()


def test_a_folder_of_unread_kinds_says_which(tmp_path):
    (tmp_path / "photos" / "mug").mkdir(parents=True)
    (tmp_path / "photos" / "mug" / "1.HEIC").write_bytes(b"x")
    with pytest.raises(ConfigError, match="without images .*; there: .heic: not a kind that is read"):
        source(tmp_path / "photos").sizes()


def test_unreadable_photos_that_are_dropped_are_counted_in_the_report(photos, tmp_path):
    (photos / "dog2" / "03.png").write_bytes(b"no image")
    out = tmp_path / "out"
    assert main(["run", f"out={out}", f"folder.path={photos}", *RUN, "folder.unreadable=drop"]) == 0
    statistics = json.loads((out / "statistics.json").read_text())
    assert statistics["splits"]["train"]["left_out_images"] == {"source: unreadable image": 1}


def odd_file(folder: Path, kind: str) -> Path:
    """A photo's name that is no photo, or whose name cannot be written down."""
    path = folder / "odd.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to(folder / "none.png")
    else:
        path = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
        photo(path)
    return path


@pytest.mark.parametrize("kind", ["pipe", "socket", "loop", "dangling", "latin-1"])
def test_what_is_no_photo_is_refused_or_dropped_and_counted_and_never_waited_for(photos, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    odd_file(photos / "dog2", kind)
    reason = "a name that is not UTF-8" if kind == "latin-1" else "no regular file"
    with pytest.raises(ConfigError, match=f"{reason}.*; mend or remove it, or set folder.unreadable=drop") as error:
        source(photos).sizes()
    str(error.value).encode()
    one = source(photos, unreadable="drop")
    assert one.sizes()["train"] == 4 and one.inputs() and len(made(one)[0].images) == 4
    assert [why.startswith(reason) for why in one.left_out()] == [True]


@pytest.mark.parametrize("kind", ["loop", "latin-1"])
def test_subjects_folders_that_cannot_be_read_are_refused(photos, kind):
    path = photos / "loop" if kind == "loop" else Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9"))
    if kind == "loop":
        path.symlink_to(path)
    else:
        path.mkdir()
    with pytest.raises(ConfigError, match="a link that leads nowhere|must be UTF-8; rename it") as error:
        source(photos).sizes()
    str(error.value).encode()
