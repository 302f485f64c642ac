"""Shards -> index -> plan -> batches: exact contents, order as a pure function, and clear errors."""

import json
import math
import os
import shutil
import tarfile
from io import BytesIO
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import jedi.shards
from jedi.data import BatchPlan, Bucket, DataError, Draw, SetDataset, SetIndex, SetRecord, StepSampler, collate
from jedi.io.images import to_tensor
from tests import tiny
from tests.conftest import add_offsets, write_shard


@pytest.fixture(scope="module")
def index(shards) -> SetIndex:
    return SetIndex.read(shards, "train", verify=True)


def test_the_index_lists_every_set_in_order(index, shards):
    assert [path.name for path in index.shards] == ["00000.tar", "00001.tar"]
    assert [record.n for record in index.sets] == [4, 3] * 5 + [3, 4] * 5
    assert index.sets[11].key == "00001-0001"
    assert index.buckets() == {
        Bucket(3, tiny.PIXELS, tiny.PIXELS): [1, 3, 5, 7, 9, 10, 12, 14, 16, 18],
        Bucket(4, tiny.PIXELS, tiny.PIXELS): [0, 2, 4, 6, 8, 11, 13, 15, 17, 19],
    }
    assert index.buckets(set_size=3) == {Bucket(3, tiny.PIXELS, tiny.PIXELS): list(range(20))}


def test_the_fingerprint_follows_the_data_not_the_place(index, shards, tmp_path):
    shutil.copytree(shards, tmp_path / "copy")
    assert SetIndex.read(tmp_path / "copy").fingerprint == index.fingerprint
    write_shard(tmp_path / "copy" / "train", "00001", [3, 4] * 5, tiny.PIXELS, seed=9)
    assert SetIndex.read(tmp_path / "copy").fingerprint != index.fingerprint


def test_members_are_read_as_they_were_written(index, shards):
    dataset = SetDataset(index)
    with tarfile.open(shards / "train" / "00001.tar") as tar:
        data = tar.extractfile("00001-0003.2.png").read()
        record = json.load(tar.extractfile("00001-0003.json"))
    assert torch.equal(dataset.images(13, [2])[0], to_tensor([Image.open(BytesIO(data))])[0])
    read = dataset[13]
    assert read.images.shape == (4, 3, tiny.PIXELS, tiny.PIXELS)
    assert -1 <= read.images.min() < -0.2 < 0.2 < read.images.max() <= 1
    assert (read.captions, read.subject_id) == (record["captions"], record["subject"]["id"])


@pytest.mark.parametrize("offsets", [True, False])
def test_a_set_costs_one_read_of_a_tar_that_is_never_listed(index, shards, tmp_path, monkeypatch, offsets):
    """With offsets in the manifest; a shard without them, of an older version, is listed once."""
    if offsets:
        shutil.copytree(shards, tmp_path / "data")
        add_offsets(tmp_path / "data" / "train" / "00000")
        index = SetIndex.read(tmp_path / "data")
        assert index.fingerprint == SetIndex.read(shards).fingerprint  # what is beside the data may be added later
    calls, listed = [], []
    for name in ("open", "pread"):
        function = getattr(os, name)
        counted = lambda *of, name=name, function=function: (calls.append(name), function(*of))[1]
        monkeypatch.setattr(f"jedi.shards.os.{name}", counted)
    list_members = jedi.shards.list_members
    monkeypatch.setattr("jedi.shards.list_members", lambda path: listed.append(path) or list_members(path))
    dataset = SetDataset(index)
    read = [dataset[Draw(0, position, position, 3)].images for position in range(8)]
    assert len(read) == 8 and calls == ["open", "pread"] * 8
    assert listed == ([] if offsets else [index.shards[0]])
    calls.clear()
    SetDataset(index, latents=SimpleNamespace(read=lambda i: torch.zeros(4, 1, 1, 1)))[Draw(0, 0, 0, 4)]
    assert calls == ["open", "pread"]  # of the captions alone


def test_a_draw_orders_images_and_captions_alike(index):
    dataset = SetDataset(index, seed=3)
    plain, drawn = dataset[13], dataset[Draw(step=0, position=5, index=13, n=3)]
    order = [plain.captions.index(caption) for caption in drawn.captions]
    assert len(set(order)) == 3
    assert torch.equal(drawn.images, plain.images[order])
    others = [dataset[Draw(0, position, 13, 3)].captions for position in range(8)]
    assert len({tuple(captions) for captions in others}) > 3
    assert SetDataset(index, seed=3)[Draw(9, 5, 13, 3)].captions == drawn.captions


def test_members_that_show_one_subject_each_come_before_any_other(index, monkeypatch):
    """Of a set of several subjects: they are its references; both parts are still shuffled."""
    dataset, plain = SetDataset(index), SetDataset(index)
    n = index.sets[0].n
    first = [1, n - 1]
    captions = dataset.record(0)["captions"]
    read = dataset.record
    monkeypatch.setattr(dataset, "record", lambda *of: read(*of) | {"references": first})
    seen = [tuple(captions.index(text) for text in dataset[Draw(0, p, 0, n)].captions) for p in range(30)]
    assert len(set(captions)) == n
    assert {order[:2] for order in seen} == {(1, n - 1), (n - 1, 1)}
    assert len({order[2:] for order in seen}) == math.factorial(n - 2)
    # A smaller set_size leaves room for a member that shows all of them: else it would never be trained.
    draws = [Draw(0, position, 0, size) for position in range(9) for size in (1, 2)]
    cuts = [[captions.index(text) for text in dataset[draw].captions] for draw in draws]
    assert all(cut[-1] not in first and set(cut[:-1]) <= set(first) for cut in cuts)
    assert {cut[0] for cut in cuts[1::2]} == set(first)
    monkeypatch.setattr(dataset, "record", lambda *of: read(*of) | {"references": range(n)})  # where there is no other
    assert len(dataset[Draw(0, 7, 0, 2)].captions) == 2
    without = {tuple(captions.index(text) for text in plain[Draw(0, p, 0, n)].captions)[:2] for p in range(30)}
    assert len(without) > 2


def test_an_epoch_has_each_set_at_most_once_and_drops_another_remainder_each_time(index):
    plan = BatchPlan(index, batch_size=4, seed=0)
    assert (plan.steps_per_epoch, plan.dropped_per_epoch) == (4, 4)
    epochs = []
    for epoch in range(3):
        steps = [plan.step(epoch * 4 + i) for i in range(4)]
        seen = [position for _, sets in steps for position in sets]
        assert len(set(seen)) == 16
        assert all({index.sets[i].n for i in sets} == {bucket.n} for bucket, sets in steps)
        epochs.append(seen)
    assert len({frozenset(seen) for seen in epochs}) > 1
    again = BatchPlan(index, batch_size=4, seed=0)
    assert again.step(9) == plan.step(9)  # asked out of order: the plan has no state
    assert [BatchPlan(index, 4, seed=1).step(i) for i in range(4)] != [plan.step(i) for i in range(4)]


def test_the_order_is_pinned_for_ever():
    """Runs resume by it: it may not change with a version of anything."""
    sets = tuple(SetRecord(0, f"k{i}", 3, 8, 8) for i in range(10))
    plan = BatchPlan(SetIndex((), sets, ""), batch_size=4, seed=0)
    assert [plan.step(i)[1] for i in range(4)] == [[8, 1, 6, 0], [3, 2, 5, 9], [4, 2, 5, 1], [3, 7, 0, 8]]


def positions(sampler) -> list[list[int]]:
    return [[draw.position for draw in part] for part in sampler]


def test_ranks_and_micro_batches_share_a_step_without_overlap(index):
    plan = BatchPlan(index, batch_size=8, seed=0, set_size=3)
    whole = list(StepSampler(plan, stop=3))
    assert positions(whole) == [list(range(i, i + 8)) for i in (0, 8, 16)]
    for world, accumulate in ((2, 1), (1, 4), (2, 2), (4, 2)):
        ranks = [list(StepSampler(plan, rank, world, accumulate, stop=3)) for rank in range(world)]
        for step in range(3):
            parts = [ranks[r][step * accumulate + a] for r in range(world) for a in range(accumulate)]
            assert [draw for part in parts for draw in part] == whole[step]
    with pytest.raises(DataError, match="batch_size=8 sets cannot be dealt to 3 processes"):
        StepSampler(plan, 0, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_that_starts_later_yields_the_same_batches(index, workers):
    plan = BatchPlan(index, batch_size=4, seed=0)

    def batches(start, workers):
        sampler = StepSampler(plan, accumulate=2, start=start, stop=6)
        return list(DataLoader(SetDataset(index), batch_sampler=sampler, num_workers=workers, collate_fn=collate))

    for expected, batch in zip(batches(0, 0)[2 * 3 :], batches(3, workers), strict=True):
        assert batch.step == expected.step >= 3
        assert batch.positions.tolist() == expected.positions.tolist()
        assert batch.captions == expected.captions
        assert batch.subject_ids == expected.subject_ids
        assert torch.equal(batch.images, expected.images)
        assert batch.images.shape[:2] == (2, batch.n)


def test_a_batch_moves_as_a_whole(index):
    batch = collate([SetDataset(index)[0], SetDataset(index)[2]])
    moved = batch.to(torch.float64)
    assert moved.images.dtype == torch.float64 and moved.captions == batch.captions and len(moved) == 2


# --- bad input: the shard is named, and what to do ---


@pytest.fixture
def folder(tmp_path):
    write_shard(tmp_path / "train", "00000", [3] * 4, tiny.PIXELS, seed=1)
    return tmp_path


def edit_manifest(folder, **changes):
    path = folder / "train" / "00000.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_missing_or_empty_folders(tmp_path):
    with pytest.raises(DataError, match="no data folder .*train; `python -m data_gen run"):
        SetIndex.read(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no shards"):
        SetIndex.read(tmp_path)


def test_a_tar_without_manifest_does_not_count(folder, caplog):
    shutil.copy(folder / "train" / "00000.tar", folder / "train" / "00001.tar")
    assert len(SetIndex.read(folder).sets) == 4
    assert "1 tars without a manifest are not read: 00001.tar" in caplog.text
    (folder / "train" / "00000.json").unlink()
    with pytest.raises(DataError, match="2 tars without a manifest"):
        SetIndex.read(folder)


def test_a_tar_that_differs_from_its_manifest(folder):
    edit_manifest(folder, sha256="0" * 64)
    SetIndex.read(folder)
    with pytest.raises(DataError, match=r"00000.tar: sha256 .* its manifest says 0000"):
        SetIndex.read(folder, verify=True)
    tar = folder / "train" / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:-1024])
    with pytest.raises(DataError, match=r"00000.tar: \d+ bytes, its manifest says"):
        SetIndex.read(folder)
    tar.unlink()
    with pytest.raises(DataError, match=r"00000.tar is missing"):
        SetIndex.read(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 2}'])
def test_a_manifest_that_is_none(folder, text):
    (folder / "train" / "00000.json").write_text(text)
    with pytest.raises(DataError, match=r"00000.json: (not the manifest of a shard|format 2)"):
        SetIndex.read(folder)


@pytest.mark.parametrize("lacking", ["key", "n", "width", "height"])
def test_a_manifest_whose_sets_lack_something(folder, lacking):
    sets = json.loads((folder / "train" / "00000.json").read_text())["sets"]
    del sets[2][lacking]
    edit_manifest(folder, sets=sets)
    with pytest.raises(DataError, match=rf"00000.json: not the manifest of a shard \(no '{lacking}'\)"):
        SetIndex.read(folder)


def test_no_sets(folder):
    edit_manifest(folder, sets=[])
    with pytest.raises(DataError, match="1 shards hold no sets"):
        SetIndex.read(folder)


def spoil(folder, member: str, data: bytes):
    """Overwrites the beginning of a member; the size of the tar stays."""
    tar = folder / "train" / "00000.tar"
    with tarfile.open(tar) as opened:
        offset = opened.getmember(member).offset_data
    content = bytearray(tar.read_bytes())
    content[offset : offset + len(data)] = data
    tar.write_bytes(bytes(content))


def test_a_corrupt_image_is_named_through_the_workers_too(folder):
    spoil(folder, "00000-0002.1.png", b"\0" * 40)
    index = SetIndex.read(folder)
    assert SetDataset(index)[1].images is not None
    message = r"00000.tar: 00000-0002.1.png: not an image of a known kind .*; make the shard again"
    with pytest.raises(DataError, match=message):
        SetDataset(index)[2]
    plan = BatchPlan(index, 4, 0)
    loader = DataLoader(SetDataset(index), batch_sampler=StepSampler(plan, stop=1), num_workers=1, collate_fn=collate)
    with pytest.raises(DataError, match=message):
        list(loader)


def test_a_corrupt_record_is_named(folder):
    spoil(folder, "00000-0001.json", b"[[[")
    with pytest.raises(DataError, match=r"00000.tar: 00000-0001.json: not the record of a set"):
        SetDataset(SetIndex.read(folder))[1]


def test_a_manifest_that_promises_what_the_tar_has_not(folder):
    manifest = json.loads((folder / "train" / "00000.json").read_text())
    edit_manifest(folder, sets=[{**record, "key": f"none{i}"} for i, record in enumerate(manifest["sets"])])
    with pytest.raises(DataError, match="no member none0.json"):
        SetDataset(SetIndex.read(folder))[0]
    edit_manifest(folder, sets=[{**record, "width": 999} for record in manifest["sets"]])
    with pytest.raises(DataError, match=r"expected \(999"):
        SetDataset(SetIndex.read(folder))[0]


def test_a_batch_larger_than_every_bucket(index, caplog):
    with pytest.raises(DataError, match=r"batch_size=11 is larger than every bucket \(10 sets of 3 images"):
        BatchPlan(index, 11, 0)
    assert BatchPlan(index, 11, 0, set_size=3).steps_per_epoch == 1


def test_a_bucket_that_is_never_used_is_reported(folder, caplog):
    write_shard(folder / "train", "00001", [4] * 2, tiny.PIXELS, seed=2)
    plan = BatchPlan(SetIndex.read(folder), 4, 0)
    assert (plan.steps_per_epoch, plan.dropped_per_epoch, plan.never_used) == (1, 0, 2)
    assert [bucket.n for bucket in plan.used] == [3]
    assert "never used, being fewer than batch_size=4: 2 sets of 4 images" in caplog.text


def of_sizes(*sizes: tuple[int, int, int]) -> SetIndex:
    """Sets of (n, width, height), in turn; nothing can be read of them."""
    return SetIndex((), tuple(SetRecord(0, str(i), *size) for i, size in enumerate(sizes)), "")


def test_small_buckets_join_the_next_smaller_n_of_their_size(caplog):
    many = [(5, 8, 8)] * 2 + [(4, 8, 8)] * 1 + [(3, 8, 8)] * 9 + [(2, 8, 8)] * 4 + [(4, 16, 8)] * 3 + [(2, 16, 8)] * 3
    index = of_sizes(*many)
    assert BatchPlan(index, 4, 0).never_used == 9 and "data.merge_small_buckets=true lets them join" in caplog.text
    caplog.clear()
    plan = BatchPlan(index, 4, 0, merge_small=True)
    joined = {Bucket(2, 8, 8): 4, Bucket(2, 16, 8): 6, Bucket(3, 8, 8): 12}  # the sets of 5 went on through those of 4
    assert {bucket: len(sets) for bucket, sets in plan.buckets.items()} == joined
    assert (plan.merged, plan.never_used) == (6, 0) and not caplog.text
    seen = {i for epoch in range(9) for step in range(5) for i in plan.step(5 * epoch + step)[1]}
    assert seen == set(range(len(many)))
    alone = BatchPlan(of_sizes(*[(3, 8, 8)] * 4, (2, 8, 8)), 4, 0, merge_small=True)
    assert (alone.merged, alone.never_used) == (0, 1) and caplog.text.rstrip().endswith("1 sets of 2 images, 8 x 8")
    whole = of_sizes(*[(3, 8, 8)] * 4)  # where no bucket is small nothing changes
    assert BatchPlan(whole, 2, 0, merge_small=True).step(5) == BatchPlan(whole, 2, 0).step(5)
