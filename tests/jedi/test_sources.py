"""Several sources of training data, and plain single images as one of them."""

import io
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import jedi.single_images
from jedi.conditioning import ConditioningConfig, draw_step
from jedi.data import BatchPlan, Bucket, DataError, Draw, SetDataset, SetIndex, StepSampler, collate
from jedi.mixture import MixedPlan
from jedi.single_images import read_single_images
from tests.conftest import write_shard

SIZES = [(16, 8), (8, 16), (8, 8)]


def encoded(size, colour, kind, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind, **options)
    return buffer.getvalue()


def write_tar(path, members) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def plain_images(count=6) -> dict[str, bytes]:
    """Samples as img2dataset writes them, red ones of other sizes, and what cannot be used."""
    turned = Image.Exif()
    turned[0x0112] = 6
    members = {}
    for i in range(count):
        size, kind = ((40, 20), "JPEG") if i % 3 == 0 else ((20, 42), "PNG") if i % 3 == 1 else ((31, 30), "WEBP")
        ending = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[kind]
        members[f"{i:05d}.{ending}"] = encoded(size, (255, 0, 0), kind)
        text = f"a  red thing\nnumber {i}"
        members |= (
            {f"{i:05d}.txt": text.encode()} if i % 2 else {f"{i:05d}.json": json.dumps({"caption": text}).encode()}
        )
    members |= {"turned.jpg": encoded((20, 40), (0, 0, 255), "JPEG", exif=turned), "turned.txt": b"blue"}
    members |= {"alone.jpg": encoded((9, 9), 0, "JPEG"), "text.txt": b"no image", "empty.png": b"", "empty.txt": b"x"}
    members |= {"dumb.png": encoded((9, 9), 0, "PNG"), "dumb.json": b'{"caption": null}'}
    return members


@pytest.fixture
def images(tmp_path):
    write_tar(tmp_path / "images" / "00000.tar", plain_images())
    write_tar(tmp_path / "images" / "00001.tar", {f"b/{name}": data for name, data in plain_images(2).items()})
    return tmp_path / "images"


def test_single_images_get_the_nearest_size_upright_and_their_captions(images, caplog, monkeypatch):
    index = read_single_images(images, SIZES)
    used = {record.key: (record.n, record.width, record.height) for record in index.sets}
    assert used["00000"] == used["turned"] == (1, 16, 8) and used["00001"] == (1, 8, 16) and used["00002"] == (1, 8, 8)
    assert len(index.sets) == 7 + 3 and "b/turned" in used
    reasons = (
        "2 with a caption that cannot be read, 2 with an image that cannot be read, 2 without a caption, 2 without"
    )
    assert f"images: not used: {reasons} an image" in caplog.text
    reads = []
    pread = jedi.shards.os.pread
    monkeypatch.setattr("jedi.shards.os.pread", lambda *of: reads.append(of) or pread(*of))
    dataset = SetDataset(index)
    for i, record in enumerate(index.sets[:6]):
        one = dataset[Draw(0, 3, i, 1)]
        assert one.captions == [f"a red thing number {i}"] and one.subject_id == record.key
        assert one.images.shape == (1, 3, record.height, record.width) and one.images[0, 0].min() > 0.9
    assert len(reads) == 6  # image and caption together
    assert dataset[6].captions == ["blue"] and dataset[6].images[0, 2].min() > 0.9


def test_the_index_is_made_once_for_each_tar_and_again_where_it_or_the_tar_is_changed(images, monkeypatch, tmp_path):
    listed, list_members = [], jedi.single_images.list_members
    monkeypatch.setattr("jedi.single_images.list_members", lambda tar: listed.append(tar.name) or list_members(tar))
    index = read_single_images(images, SIZES, tmp_path / "kept")
    assert read_single_images(images, SIZES, tmp_path / "kept") == index
    assert listed == ["00000.tar", "00001.tar"]
    assert read_single_images(images, SIZES[:1], tmp_path / "kept").fingerprint != index.fingerprint
    whole = (tmp_path / "kept" / "00001.tar.json").read_text()
    for text in ("[", "{}", '{"format": 1}', "null", whole.replace("jpg:", "jpg:-"), whole.replace(" json:", " xml:")):
        assert text != whole
        (tmp_path / "kept" / "00001.tar.json").write_text(text)
        assert read_single_images(images, SIZES, tmp_path / "kept") == index
    assert listed[2:] == ["00001.tar"] * 6
    write_tar(images / "00001.tar", plain_images(3))
    assert len(read_single_images(images, SIZES, tmp_path / "kept").sets) == 7 + 4
    assert listed[8:] == ["00001.tar"]


def test_what_is_no_folder_of_images_is_said(images, tmp_path):
    with pytest.raises(DataError, match="nothing: no tars of images; expected X.tar"):
        read_single_images(tmp_path / "nothing", SIZES)
    write_tar(tmp_path / "texts" / "0.tar", {"a.txt": b"a", "b.txt": b"b"})
    with pytest.raises(DataError, match="1 tars hold no image with a caption .2 without an image"):
        read_single_images(tmp_path / "texts", SIZES)
    (tmp_path / "texts" / "0.tar").write_bytes(b"x" * 600)
    with pytest.raises(DataError, match="0.tar: not a readable tar"):
        read_single_images(tmp_path / "texts", SIZES)
    index = read_single_images(images, SIZES)
    tar = (images / "00000.tar").read_bytes()
    (images / "00000.tar").write_bytes(tar.replace(b"IDAT", b"XXXX"))
    with pytest.raises(DataError, match="00000.tar: 00001.png: not an image of a known kind .*; mend or remove it"):
        SetDataset(index)[1]


@pytest.fixture
def joined(tmp_path, images):
    """Sets of two sizes, sets of another folder whose shards have the same names, and single images."""
    write_shard(tmp_path / "a" / "train", "00000", [3, 2] * 4, 8, seed=1)
    write_shard(tmp_path / "a" / "train", "00001", [2] * 4, (16, 8), seed=2)
    write_shard(tmp_path / "b" / "train", "00000", [2] * 5, 8, seed=3)
    parts = [SetIndex.read(tmp_path / "a"), SetIndex.read(tmp_path / "b"), read_single_images(images, SIZES)]
    return SetIndex.join(parts), parts


def mixed(index, weights, batch_size=2, seed=0) -> MixedPlan:
    return MixedPlan([BatchPlan(index, batch_size, seed, source=part) for part in index.sources], weights)


def test_each_source_has_its_share_of_the_steps_and_goes_its_own_way(joined):
    index, parts = joined
    plan = mixed(index, [6, 3, 1])
    places = [plan.place(step) for step in range(1000)]
    for end in (1, 7, 10, 99, 500, 1000):
        counts = Counter(source for source, _ in places[:end])
        assert all(abs(counts[source] - end * share) < 1 for source, share in enumerate((0.6, 0.3, 0.1)))
    for source, part in enumerate(parts):  # as if it were alone
        alone, first = BatchPlan(part, 2, 0), index.sources[source].start
        steps = [step for step, (of, _) in enumerate(places[:60]) if of == source]
        for number, step in enumerate(steps):
            bucket, sets = alone.step(number)
            assert plan.step(step) == (bucket, [first + i for i in sets])
    again = mixed(index, [60, 30, 10])
    assert again.step(789) == plan.step(789) and again.step(3) == plan.step(3)  # asked out of order: no state
    assert mixed(index, [6, 3, 1], seed=1).step(789) != plan.step(789)


def test_a_joined_index_reads_what_its_parts_read(joined):
    index, parts = joined
    assert index.fingerprint != SetIndex.join(parts[::-1]).fingerprint
    whole = SetDataset(index)
    for part, sets in zip(parts, index.sources, strict=True):
        alone = SetDataset(part)
        for i, position in enumerate(sets):
            assert whole.record(position) == alone.record(i)
            assert torch.equal(whole[position].images, alone[i].images)
    one = mixed(index, [1, 1, 1])
    batches = [collate([whole[draw] for draw in draws]) for draws in StepSampler(one, stop=6)]
    assert {batch.n for batch in batches} >= {1, 2}
    assert {Bucket(2, 16, 8), Bucket(1, 16, 8)} <= {one.step(step)[0] for step in range(30)}


def test_single_images_train_without_references_whatever_the_weights():
    config = ConditioningConfig(reference_weights=[0, 1, 1])
    assert draw_step(0, 3, 1, config).num_references == 0
    assert not np.any([draw_step(0, step, 3, config).num_references == 0 for step in range(20)])
