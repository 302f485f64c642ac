"""jedi.data: damaged, foreign and hostile shards. Whatever is wrong, it is a DataError in words."""

import copy
import json
import os
import random
import tarfile
from io import BytesIO

import pytest
import torch

from jedi.data import DataError, SetDataset, SetIndex
from tests.conftest import write_shard

PIXELS = 8
DEEP = "[" * 100_000
VALUES = (
    None, True, False, -1, 0, 1, 2, 7, 2**31, 2**70, -(2**70), 0.5, 1e308, float("nan"), "", "x", "a\0b\x1b[2J", "1",
    "\ud800", "x" * 5_000, [], {}, [None], [0, 0], [-1], [2**70], [True], [["a"]], {"id": None}, {"id": 3}, {"id": ""},
    {"id": "\ud800"}, {"id": "x"},
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A shard of two sets of two images: the bytes of its manifest, and of its tar's members in order."""
    folder = tmp_path_factory.mktemp("whole")
    write_shard(folder / "train", "00000", [2, 2], PIXELS, seed=1)
    with tarfile.open(folder / "train" / "00000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    return json.loads((folder / "train" / "00000.json").read_text()), members


def pack(members) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    return buffer.getvalue()


def places(value, path=()):
    """The paths of all values in JSON."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inside:
        yield from places(below, (*path, key))


def changed(value, path, new):
    value = copy.deepcopy(value)
    *way, last = path
    parent = value
    for key in way:
        parent = parent[key]
    if new is KeyError:
        del parent[last]
    else:
        parent[last] = new
    return value


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Bytes cut short, turned, moved or added."""
    data, kind = bytearray(data), chance.randrange(4)
    place = chance.randrange(len(data))
    if kind == 0:
        return bytes(data[:place])
    if kind == 1:
        return bytes(data[:place] + chance.randbytes(9) + data[place:])
    for _ in range(chance.randrange(1, 6)):
        data[chance.randrange(len(data))] = chance.choice((0, 255, 34, 45, 57, 123))
    return bytes(data)


def trials(manifest, members):
    """Manifests (as text) and tars, each with something changed."""
    chance, tar = random.Random(3), pack(members)
    record = next(name for name in members if name.endswith(".json"))
    texts = [DEEP, '{"a":' * 100_000, "", "null", "[]", "1", "9" * 5_000, '{"sets": ' + DEEP, "\0\x1b\xff" * 50]
    for path in places(manifest):
        read = path[0] in ("format", "bytes", "sha256") or path[:2] in (("sets",), ("sets", 1))
        for new in read * (KeyError, *VALUES):
            yield json.dumps(changed(manifest, path, new)).encode(), tar
    for text in texts:
        yield text.encode("latin-1"), tar
        yield manifest, pack({**members, record: text.encode("latin-1")})
    for _ in range(80):
        yield damaged(json.dumps(manifest).encode(), chance), tar
        yield manifest, pack({**members, record: damaged(members[record], chance)})
    content = {**json.loads(members[record]), "references": [0]}
    for path in places(content):
        for new in (path[0] in ("key", "subject", "captions", "references")) * (KeyError, *VALUES):
            yield manifest, pack({**members, record: json.dumps(changed(content, path, new)).encode()})
    for name in members:
        for _ in range(6):
            yield manifest, pack({**members, name: damaged(members[name], chance)})
    for _ in range(150):  # headers too, which say names and sizes
        yield manifest, damaged(tar, chance)
    second = 512 + -(-len(members[record]) // 512) * 512
    for size in (b"\xff" * 11 + b"\0", b"\xff" * 10 + b"\xfe\0", b"-0000000512\0", b"77777777777\0", b" " * 11 + b"\0"):
        for at in (0, second):  # of -512 bytes: tarfile comes back to the same header, for ever
            yield manifest, with_size(tar, at, size)


def with_size(tar: bytes, at: int, size: bytes) -> bytes:
    """The header there with another size, and a checksum that fits."""
    head = bytearray(tar[at : at + 512])
    head[124:136], head[148:156] = size, b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return tar[:at] + bytes(head) + tar[at + 512 :]


@pytest.mark.slow
def test_mutated_shards_are_read_right_or_refused_in_words(whole, tmp_path):
    """Seeded. What is not refused must be whole: texts, an id, images of the size that the manifest says."""
    manifest, members = whole
    folder = tmp_path / "train"
    folder.mkdir()
    tried, refused, mishandled = 0, 0, []
    for text, tar in trials(manifest, members):
        tried += 1
        if isinstance(text, dict):
            text = json.dumps({**text, "bytes": len(tar)}).encode()
        (folder / "0.json").write_bytes(text)
        (folder / "0.tar").write_bytes(tar)
        try:
            dataset = SetDataset(SetIndex.read(tmp_path))
            for i in range(len(dataset)):
                one, record = dataset[i], dataset.index.sets[i]
                assert one.images.shape == (record.n, 3, record.height, record.width)
                assert len(one.captions) == record.n and all(isinstance(x, str) for x in one.captions)
                assert isinstance(one.subject_id, str) and one.subject_id
                assert dataset.mask(i, 0).mode == "L"
        except DataError as error:
            refused += 1
            words = str(error).replace(str(tmp_path), "")
            if not words.isprintable() or len(words) > 500:
                mishandled.append((text, words))
        except Exception as error:
            mishandled.append((text[:300], repr(error)[:300]))
    print(f"tried {tried}, refused {refused}, mishandled {len(mishandled)}")
    assert not mishandled, (len(mishandled), mishandled[:3])
    assert tried > 1_000 and refused > 600


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("json:0:99999999", "00000-0000.json is cut short .bytes 0 to 99,999,999"),
        ("json:99999999:5", "00000-0000.json is cut short"),
        ("json:-512:400", "a member 'json:-512:400', expected ENDING:OFFSET:SIZE; make the shard again"),
        ("json:512:" + "9" * 30, "a member 'json:512:999"),
        ("json:512:400 json:512:400", "a member 'json:512:400', expected"),
        ("json:x:4", "a member 'json:x:4'"),
        ("json", "a member 'json'"),
        (" ", "a member ''"),
        ("0.png:512:9", "no member 00000-0000.json"),
        ("json:0:512 0.png:0:9", "00000-0000.json: not the record of a set"),
        (["json"], "json: not the manifest of a shard .members is .'json'., expected a text"),
        (None, "json: not the manifest of a shard .members is None"),
    ],
)
def test_offsets_that_make_no_sense_are_refused_with_the_shard(whole, tmp_path, members, message):
    manifest, contents = whole
    tar = pack(contents)
    rows = [{**row, "members": members} for row in manifest["sets"]]
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.tar").write_bytes(tar)
    (tmp_path / "train" / "0.json").write_text(json.dumps({**manifest, "bytes": len(tar), "sets": rows}))
    with pytest.raises(DataError, match=f"train/0.(tar: .*)?{message}"):
        SetDataset(SetIndex.read(tmp_path)).record(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "00000-0001"}, "key is '00000-0001', expected '00000-0000', as its manifest says"),
        ({"captions": ["one"]}, r"captions is \['one'\], expected as many as images, 2"),
        ({"captions": ["one", 2]}, "a caption is 2, expected a text"),
        ({"images": [{}]}, r"images is .*, expected a list of 2 or none"),
        (
            {"images": [{}, {"original_size": [0, 5]}]},
            "original_size of an image is .*, expected two whole",
        ),
        ({"subject": "cup"}, "subject is 'cup', expected an object"),
        ({"subject": {"id": 5}}, "subject.id is 5, expected a text"),
        ({"references": [2]}, "references is .2., expected numbers of images"),
    ],
    ids=["key", "captions", "caption", "images", "size", "subject", "id", "references"],
)
def test_a_record_of_another_kind(whole, tmp_path, change, message):
    manifest, members = whole
    name = next(iter(members))
    tar = pack({**members, name: json.dumps({**json.loads(members[name]), **change}).encode()})
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.tar").write_bytes(tar)
    (tmp_path / "train" / "0.json").write_text(json.dumps({**manifest, "bytes": len(tar)}))
    with pytest.raises(DataError, match=f"0.tar: 00000-0000.json: not the record of a set .{message}"):
        SetDataset(SetIndex.read(tmp_path))[0]


def test_a_shard_that_is_a_program_is_not_run(whole, tmp_path, monkeypatch):
    """PIL would hand PostScript to Ghostscript."""
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **settings: pytest.fail("it was run"))
    manifest, members = whole
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(payload) print\n"
    tar = pack({**members, "00000-0000.0.png": script, "00000-0000.0.mask.png": script})
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.tar").write_bytes(tar)
    (tmp_path / "train" / "0.json").write_text(json.dumps({**manifest, "bytes": len(tar)}))
    dataset = SetDataset(SetIndex.read(tmp_path))
    for read in (dataset.image, dataset.mask):
        with pytest.raises(DataError, match="not an image of a known kind"):
            read(0, 0)


def test_pipes_among_shards_are_refused_not_waited_for(whole, tmp_path):
    manifest, _ = whole
    (tmp_path / "train").mkdir()
    os.mkfifo(tmp_path / "train" / "0.json")
    with pytest.raises(DataError, match="0.json: not a regular file"):
        SetIndex.read(tmp_path)
    (tmp_path / "train" / "0.json").unlink()
    (tmp_path / "train" / "0.json").write_text(json.dumps({**manifest, "bytes": 0}))
    os.mkfifo(tmp_path / "train" / "0.tar")
    with pytest.raises(DataError, match="0.tar is missing"):
        SetIndex.read(tmp_path)


def test_a_shard_that_is_cut_short_or_gone_while_it_is_read(whole, tmp_path):
    manifest, members = whole
    tar = pack(members)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.tar").write_bytes(tar)
    (tmp_path / "train" / "0.json").write_text(json.dumps({**manifest, "bytes": len(tar)}))
    dataset = SetDataset(SetIndex.read(tmp_path))
    assert torch.equal(dataset[0].images, dataset[0].images)
    (tmp_path / "train" / "0.tar").write_bytes(tar[:600])
    with pytest.raises(DataError, match="00000-0000.json is cut short .bytes .* of 600.; copy the shard again"):
        dataset[0]
    (tmp_path / "train" / "0.tar").unlink()
    with pytest.raises(DataError, match="0.tar: cannot be read .*No such file"):
        dataset[0]
