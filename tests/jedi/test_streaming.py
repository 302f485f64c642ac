"""Streaming: order and place as functions of the step, ranks and workers, a local server, what is refused."""

import functools
import http.server
import tarfile
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from jedi.data import DataError, SetDataset, SetIndex
from jedi.streaming import StreamDataset, StreamPlan, expand
from tests import tiny
from tests.conftest import write_shard
from tests.jedi.test_sources import encoded, write_tar

SHARDS, SETS = 6, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six tars of four sets of 3, without their manifests."""
    folder = tmp_path_factory.mktemp("stream")
    for number in range(SHARDS):
        write_shard(folder, f"{number:03d}", [3] * SETS, tiny.PIXELS, seed=number).with_suffix(".json").unlink()
    return folder


@pytest.fixture(scope="module")
def server(folder):
    """The same over HTTP; yields the address and the paths that were asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *of):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}", asked
        served.shutdown()


def planned(urls, batch_size=4, **options) -> StreamPlan:
    settings = {"sizes": ((tiny.PIXELS, tiny.PIXELS),), "seed": 0, "set_size": 3, "samples_per_shard": SETS}
    return StreamPlan(tuple(urls), batch_size=batch_size, **{**settings, **options})


def taken(plan, **options) -> list:
    return list(StreamDataset(plan, **options))


def ids(batches) -> list[str]:
    return [name for batch in batches for name in batch.subject_ids]


def test_an_epoch_streams_every_set_once_in_shuffled_shards(folder):
    plan = planned(expand([f"{folder}/*.tar"]))
    batches = taken(plan, stop=SHARDS)
    assert Counter(ids(batches)) == Counter(f"{i:03d}-{j:04d}" for i in range(SHARDS) for j in range(SETS))
    orders = [[plan.shard(epoch * SHARDS + i) for i in range(SHARDS)] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2] and all(sorted(order) == sorted(plan.urls) for order in orders)
    assert [batch.step for batch in batches] == list(range(SHARDS)) and batches[0].images.shape[:2] == (4, 3)
    assert [int(position) for batch in batches for position in batch.positions] == list(range(4 * SHARDS))
    assert len({tuple(captions) for batch in batches for captions in batch.captions}) > 3  # members are shuffled
    mixed = ids(taken(planned(plan.urls, shuffle=20), stop=SHARDS))
    assert mixed != ids(batches) and ids(taken(planned(plan.urls, shuffle=20), stop=SHARDS)) == mixed


def test_a_set_is_what_the_index_reads_of_it(folder, tmp_path):
    write_shard(tmp_path / "train", "000", [3] * SETS, tiny.PIXELS, seed=0)
    indexed, (batch,) = SetDataset(SetIndex.read(tmp_path)), taken(planned([f"{folder}/000.tar"]), stop=1)
    for i in range(SETS):
        order = [indexed[i].captions.index(caption) for caption in batch.captions[i]]
        assert torch.equal(batch.images[i], indexed[i].images[order])


def test_a_resumed_run_goes_on_in_the_shard_of_its_step(folder):
    """The weaker resume: at a whole shard exactly, within one from its beginning."""
    plan = planned(expand([f"{folder}/*.tar"]), batch_size=2)
    whole = taken(plan, stop=12)
    for start in (2, 4, 10):
        assert ids(taken(plan, start=start, stop=12)) == ids(whole[start:])
    again = taken(plan, start=3, stop=12)
    assert again[0].step == 3 and again[0].positions.tolist() == [6, 7]
    assert ids(again[:1]) == ids(whole[2:3])  # what step 2 had comes twice


def test_ranks_and_workers_share_the_shards(folder):
    plan = planned(expand([f"{folder}/*.tar"]), batch_size=4)
    batches = []
    for rank in range(2):
        dataset = StreamDataset(plan, rank, world_size=2, accumulate=2, stop=6)
        batches.append(list(DataLoader(dataset, batch_size=None, num_workers=2)))
        assert [batch.step for batch in batches[-1]] == [step for step in range(6) for _ in range(2)]
        assert {len(batch) for batch in batches[-1]} == {1}
    positions = [int(batch.positions[0]) for of_rank in batches for batch in of_rank]
    assert sorted(positions) == list(range(24))
    first = Counter(ids(batches[0][:8] + batches[1][:8]))  # each of four readers has had one tar, and another one
    shards = [Path(plan.shard(place)).stem for place in range(4)]
    assert first == Counter(f"{shard}-{j:04d}" for shard in shards for j in range(SETS))


def test_three_processes_cannot_share_four_sets(folder):
    with pytest.raises(DataError, match="batch_size=4 sets cannot be dealt to 3 processes"):
        StreamDataset(planned([f"{folder}/000.tar"]), world_size=3)


def test_a_server_is_streamed_like_a_disk(folder, server):
    address, asked = server
    urls = expand([f"{address}/{{000..005}}.tar"])
    assert urls == tuple(f"{address}/{number:03d}.tar" for number in range(SHARDS))
    plan, local = planned(urls), planned(expand([f"{folder}/*.tar"]))
    assert plan.fingerprint == local.fingerprint != planned(urls[1:]).fingerprint
    found, expected = taken(plan, stop=3), taken(local, stop=3)
    assert ids(found) == ids(expected) and torch.equal(found[2].images, expected[2].images)
    assert len(asked) == 3  # no tar is fetched twice
    with pytest.raises(DataError, match=r"/none.tar: cannot be streamed .*(22|404|empty)"):
        taken(planned([f"{address}/none.tar"]), stop=1)


def test_single_images_are_cropped_to_the_nearest_size_and_broken_ones_left_out(tmp_path, caplog):
    members = {f"{i}.jpg": encoded((40, 20) if i % 2 else (20, 21), (255, 0, 0), "JPEG") for i in range(8)}
    members |= {f"{i}.txt": b"a  colour" for i in range(8)}
    members |= {"bad.jpg": b"\xff\xd8\xff", "bad.txt": b"x", "mute.png": encoded((9, 9), 0, "PNG")}
    write_tar(tmp_path / "0.tar", dict(sorted(members.items())))
    plan = planned([str(tmp_path / "0.tar")], batch_size=2, sizes=((16, 8), (8, 8)), samples_per_shard=8)
    batches = taken(plan, stop=4)
    assert {tuple(batch.images.shape) for batch in batches} == {(2, 1, 3, 8, 16), (2, 1, 3, 8, 8)}
    assert all(batch.captions == [["a colour"]] * 2 and batch.images[:, :, 0].min() > 0.9 for batch in batches)
    list(StreamDataset(plan, stop=8))
    assert "bad.jpg: broken or cut short" in caplog.text or "bad.jpg: not an image" in caplog.text


def test_what_cannot_be_streamed_is_said_with_its_address(folder, tmp_path):
    tar = (folder / "000.tar").read_bytes()
    with tarfile.open(folder / "000.tar") as opened:
        member = opened.getmember("000-0001.2.png")
    for end, message in (
        (member.offset_data + 9, "cut.tar: cannot be streamed .unexpected end of data"),
        (member.offset, "cut.tar: 000-0001.json: not the record of a set .captions .* expected as many as images, 2"),
    ):
        (tmp_path / "cut.tar").write_bytes(tar[:end])
        with pytest.raises(DataError, match=message):
            taken(planned([str(tmp_path / "cut.tar")]), stop=2)
    write_tar(tmp_path / "texts.tar", {"a.txt": b"a"})
    with pytest.raises(DataError, match="texts.tar: no images in 2 tars one after another"):
        taken(planned([str(tmp_path / "texts.tar")]), stop=1)
    write_tar(tmp_path / "part.tar", {"a.0.png": encoded((8, 8), 0, "PNG"), "a.json": b"{}"})
    with pytest.raises(DataError, match="part.tar: a.json: not the record of a set .no 'key'"):
        taken(planned([str(tmp_path / "part.tar")]), stop=1)


def test_commands_and_unknown_addresses_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match="would run a shell command; data.stream.allow_pipe=true allows it"):
        expand([f"pipe:touch {tmp_path}/ran"])
    for pattern in ("{pipe:touch x,a}.tar", "a*.tar", "/nowhere/{000..001}.tar"):
        with pytest.raises(DataError, match="no such tar"):
            expand([pattern])
    with pytest.raises(DataError, match="ftp:// is not streamed; known are files, http, https, gs, hf, pipe:"):
        expand(["ftp://host/0.tar"])
    assert not (tmp_path / "ran").exists()
    piped = expand([f"pipe:cat {folder}/000.tar"], allow_pipe=True)
    assert len(ids(taken(planned(piped), stop=1))) == 4
