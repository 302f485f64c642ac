"""The latent cache: parts that are whole or not there, made by any number of processes, checked when read."""

import errno
import json
import logging
import multiprocessing
import os
import pickle
import random
import signal
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from jedi.data import BatchPlan, DataError, Draw, SetDataset, SetIndex, StepSampler, collate
from jedi.io.files import locked
from jedi.training import latents, part_cache
from jedi.training.latents import LatentCache
from jedi.vae import encode_batch_size, encode_pixels
from tests import tiny
from tests.conftest import write_shard

IMAGES = 70  # of the shards that the fixture writes


def encode(images):
    """Stands for a VAE: ``[b 3 H W]`` -> ``[b 3 H/4 W/4]``."""
    return images[:, :, ::4, ::4]


@pytest.fixture(scope="module")
def index(shards) -> SetIndex:
    return SetIndex.read(shards, "train")


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of two sets, so of 7 images: ten in all."""
    monkeypatch.setattr(latents, "PART_PIXELS", 7 * tiny.PIXELS**2)


@pytest.fixture
def filled(index, tmp_path, small_parts) -> LatentCache:
    cache = LatentCache(index, tmp_path, "v1")
    cache.fill(encode)
    return cache


def again(cache: LatentCache) -> LatentCache:
    """The same cache as another launch sees it."""
    return LatentCache(cache.index, cache.folder.parent, "v1")


def names(cache: LatentCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


def test_cached_latents_equal_encoded_ones(index, tmp_path, tiny_components):
    vae, done = tiny_components["vae"], []
    encode = torch.no_grad()(lambda images: encode_pixels(vae, images))
    cache = LatentCache(index, tmp_path, "v1")
    assert not cache.complete
    cache.fill(encode, report=done.append)
    assert cache.complete and done[-1] == cache.count == IMAGES
    expected = encode(SetDataset(index).images(13, range(4)))
    torch.testing.assert_close(cache.read(13), expected, atol=1e-3, rtol=1e-3)

    images, cached = SetDataset(index, seed=3), SetDataset(index, seed=3, latents=cache)
    draw = Draw(0, 5, 13, 3)
    batch = collate([cached[draw], cached[draw._replace(index=8)]])
    assert batch.images is None and batch.captions[0] == images[draw].captions
    torch.testing.assert_close(batch.latents[0], encode(images[draw].images), atol=1e-3, rtol=1e-3)
    assert LatentCache(index, tmp_path, "v2").folder != cache.folder  # another VAE


def test_a_part_is_a_piece_of_a_shard(index, tmp_path, filled):
    assert names(filled) == [f"0000{shard}-000{piece}.safetensors" for shard in range(2) for piece in range(5)]
    assert [len(part.sets) for part in filled.parts] == [2] * 10
    whole = LatentCache(index, tmp_path / "whole", "v1")
    whole.fill(encode)
    dataset = SetDataset(index)
    for i, record in enumerate(index.sets):
        expected = encode(dataset.images(i, range(record.n))).half().float()
        assert torch.equal(filled.read(i), expected) and torch.equal(whole.read(i), expected)


def test_a_set_larger_than_a_part_and_images_of_several_sizes(tmp_path, monkeypatch):
    for name, pixels in (("00000", 16), ("00001", 32)):
        write_shard(tmp_path / "data" / "train", name, [3, 2, 4], pixels, seed=1)
    both = SetIndex.read(tmp_path / "data")
    # One shard whose sets differ in size, which data_gen does not write: every second record from the other tar.
    order = [both.sets[i] for i in (0, 3, 1, 4, 2, 5)]
    mixed = SetIndex(both.shards, tuple(order), both.fingerprint)
    for part_pixels in (1, 2000, 1 << 30):
        monkeypatch.setattr(latents, "PART_PIXELS", part_pixels)
        for index in (both, mixed):
            cache = LatentCache(index, tmp_path / f"{part_pixels}-{index is mixed}", "v1")
            if index is mixed:
                cache.parts = [part_cache.CachePart(cache.folder / "all.safetensors", range(6))]
                cache._place = [(0, 0), (0, 0), (0, 3), (0, 3), (0, 5), (0, 5)]
            cache.fill(encode)
            dataset = SetDataset(index)
            for i, record in enumerate(index.sets):
                assert torch.equal(cache.read(i), encode(dataset.images(i, range(record.n))).half().float())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_what_is_finished_before_an_interruption_is_kept_and_not_made_again(index, tmp_path, small_parts, error):
    calls = []

    def interrupted(images):
        calls.append(len(images))
        if len(calls) == 4:
            raise error
        return encode(images)

    cache = LatentCache(index, tmp_path, "v1")
    with pytest.raises(error):
        cache.fill(interrupted)
    assert not cache.complete
    files = [name for name in names(cache) if not name.endswith(".lock")]
    assert files == [f"00000-000{i}.safetensors" for i in range(3)]
    times = {path: path.stat().st_mtime_ns for path in cache.folder.glob("*.safetensors")}

    calls.clear()
    other, done = again(cache), []
    other.fill(lambda images: calls.append(len(images)) or encode(images), done.append)
    assert sum(calls) == IMAGES - 3 * 7 and done[0] == 7 and done[-1] == IMAGES
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert len(names(other)) == 10 and other.complete
    other.fill(None)  # nothing is left to be encoded


def test_a_killed_process_leaves_whole_parts(index, tmp_path, small_parts):
    """kill -9 in the fourth part, while a second process waits for it and then goes on."""
    cache = LatentCache(index, tmp_path, "v1")

    def kill_itself(images):
        if cache._finished() == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(images)

    process = multiprocessing.get_context("fork").Process(target=cache.fill, args=(kill_itself,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL and cache._finished() == 3
    made = []
    cache.fill(lambda images: made.append(len(images)) or encode(images))
    assert sum(made) == IMAGES - 3 * 7 and len(names(cache)) == 10


def test_two_processes_share_the_work(index, tmp_path, small_parts, monkeypatch):
    monkeypatch.setattr(part_cache, "_POLL_SECONDS", 0.01)
    context = multiprocessing.get_context("fork")
    meet, counts = context.Barrier(2), context.SimpleQueue()

    def work() -> None:
        made = []

        def encode_together(images):
            if not made:
                meet.wait(30)  # both are at work: each has a part of its own
            made.append(len(images))
            return encode(images)

        LatentCache(index, tmp_path, "v1").fill(encode_together)
        counts.put(sum(made))

    processes = [context.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    shares = [counts.get(), counts.get()]
    assert sum(shares) == IMAGES and min(shares) >= 7
    cache = LatentCache(index, tmp_path, "v1")
    cache.fill(None)
    assert len(names(cache)) == 10


def test_a_part_that_another_process_has_is_waited_for(index, tmp_path, small_parts, monkeypatch, caplog):
    cache, made = LatentCache(index, tmp_path, "v1"), []
    cache.folder.mkdir(parents=True)
    lock = locked(cache.folder, f".{cache.parts[2].path.name}.lock")
    lock.__enter__()

    def waited(seconds: float) -> None:
        assert cache._finished() == 9
        lock.__exit__(None, None, None)  # that process was killed

    monkeypatch.setattr(part_cache.time, "sleep", waited)
    cache.fill(lambda images: made.append(len(images)) or encode(images))
    assert sum(made) == IMAGES and cache.complete
    assert "waiting for 1 parts of the latents: another run is at work in" in caplog.text


def test_workers_read_the_same(filled):
    plan = BatchPlan(filled.index, batch_size=4, seed=0)
    found = []
    data = SetDataset(filled.index, 0, filled)
    for dataset, workers in ((data, 0), (data, 2), (pickle.loads(pickle.dumps(data)), 0)):  # as spawned workers get it
        loader = DataLoader(dataset, batch_sampler=StepSampler(plan, stop=3), num_workers=workers, collate_fn=collate)
        found.append([batch.latents for batch in loader])
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


# --- damage ---


def is_found(cache: LatentCache, expected: list[torch.Tensor], number: int) -> bool:
    """Whether a launch refuses the damaged part by name; else what it reads must be what was written."""
    fresh = again(cache)
    try:
        fresh.fill(None)
        read = [fresh.read(i) for i in fresh.parts[number].sets]
    except DataError as error:
        return f"{fresh.parts[number].path}: damaged (" in str(error) and "delete it" in str(error)
    assert all(torch.equal(a, b) for a, b in zip(read, expected, strict=True))
    return False


def test_damage_is_found(filled):
    draw, number = random.Random(7), 4
    path = filled.parts[number].path
    data = path.read_bytes()
    expected = [filled.read(i) for i in filled.parts[number].sets]
    head = 8 + int.from_bytes(data[:8], "little")
    assert not is_found(filled, expected, number)

    for size in (0, 7, 8, head - 1, head, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        assert is_found(filled, expected, number), size
    path.write_bytes(data + b"\0")
    assert is_found(filled, expected, number)
    path.write_bytes(bytes(len(data)))  # what a sparse file looks like
    assert is_found(filled, expected, number)

    unseen = []
    for _ in range(300):  # one bit each
        place, bit = draw.randrange(len(data)), draw.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        if not is_found(filled, expected, number):
            unseen.append(place)
    assert all(place < head for place in unseen) and len(unseen) < 10  # blanks of the head: nothing else is read


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("32x32", {"shape": [7, 3, 4, 16]}),
        ("32x32", {"shape": [8, 3, 8, 8]}),
        ("32x32", {"shape": [7, 3, 64]}),
        ("32x32", {"shape": []}),
        ("32x32", {"shape": [7, -3, -8, 8]}),
        ("32x32", {"shape": [7, 3, 8.0, 8]}),
        ("32x32", {"shape": "7388"}),
        ("32x32", {"dtype": "BF16"}),
        ("32x32", {"data_offsets": [2, 2690]}),
        ("32x32", {"data_offsets": [-8, 2680]}),
        ("32x32", {"data_offsets": [10**30, 10**30 + 2688]}),
        ("crc32", {"shape": [3]}),
        ("crc32", {"dtype": "F32"}),
        ("crc32", None),
        ("64x64", {}),
    ],
)
def test_a_head_that_says_something_else_is_found(filled, name, change):
    number = 4
    path, expected = filled.parts[number].path, [filled.read(i) for i in filled.parts[number].sets]
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + length])
    if change is None:
        del head[name]
    else:
        head[name] = {**head.get(name, {}), **change}
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert is_found(filled, expected, number)


def test_a_damaged_part_is_made_again_once_it_is_deleted(filled):
    path, expected = filled.parts[4].path, [filled.read(i) for i in range(20)]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="delete it"):
        again(filled).fill(encode)
    path.unlink()
    fresh, made = again(filled), []
    fresh.fill(lambda images: made.append(len(images)) or encode(images))
    assert sum(made) == 7
    assert all(torch.equal(fresh.read(i), expected[i]) for i in range(20))
    path.unlink()
    with pytest.raises(DataError, match="not there any more"):
        again(filled).read(8)


# --- what memory and disk allow ---


def test_images_encoded_at_once_follow_their_size():
    sizes = {16: 64, 64: 64, 128: 64, 256: 16, 512: 4, 768: 1, 1024: 1, 2048: 1}
    assert {side: encode_batch_size(side, side) for side in sizes} == sizes
    assert encode_batch_size(512, 256) == 8
    calls = []

    class Vae(torch.nn.Module):
        dtype, device = torch.float32, torch.device("cpu")
        config = type("Config", (), {"shift_factor": None, "scaling_factor": 2.0})

        def encode(self, images):
            calls.append(len(images))
            mode = staticmethod(lambda: encode(images))
            return type("Output", (), {"latent_dist": type("Distribution", (), {"mode": mode})})

    images = torch.rand(19, 3, 256, 256)
    assert torch.equal(encode_pixels(Vae(), images), 2 * encode(images)) and calls == [16, 3]


def test_out_of_memory_halves_the_batch_once_and_says_so(index, tmp_path, caplog):
    calls = []

    def of_little_memory(images):
        calls.append(len(images))
        if len(images) > 9:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return encode(images)

    cache = LatentCache(index, tmp_path, "v1")
    with caplog.at_level(logging.WARNING):
        cache.fill(of_little_memory)
    assert calls == [35, 17, 8, 8, 8, 8, 3, 8, 8, 8, 8, 3]
    assert [record.message.split(": ")[1] for record in caplog.records] == ["continuing with 17", "continuing with 8"]
    dataset = SetDataset(index)
    for i, record in enumerate(index.sets):
        assert torch.equal(cache.read(i), encode(dataset.images(i, range(record.n))).half().float())

    def of_no_memory(images):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes.")

    with pytest.raises(DataError, match="encoding 1 images of 32 x 32 pixels"):
        LatentCache(index, tmp_path, "v2").fill(of_no_memory)

    def broken(images):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        LatentCache(index, tmp_path, "v3").fill(broken)


def test_latents_that_are_not_finite_are_refused(index, tmp_path):
    with pytest.raises(DataError, match="not finite"):
        LatentCache(index, tmp_path, "v1").fill(lambda images: encode(images) * float("nan"))


def test_a_full_disk_names_the_part_and_leaves_nothing(index, tmp_path, small_parts, monkeypatch):
    cache, write, written = LatentCache(index, tmp_path, "v1"), Path.write_bytes, []

    def fills_up(path, data):
        written.append(path)
        if len(written) < 3:
            return write(path, data)
        write(path, data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a failed write says it: without a place

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fills_up)
        with pytest.raises(OSError, match="No space left") as full:
            cache.fill(encode)
    assert full.value.errno == errno.ENOSPC and full.value.filename == str(cache.parts[2].path)
    assert not list(cache.folder.glob(".*.tmp")) and len(list(cache.folder.glob("*.safetensors"))) == 2
    cache.fill(encode)
    assert len(names(cache)) == 10


def test_the_command_encodes_before_the_training(tmp_path, tiny_base, shards, capsys):
    config = tmp_path / "recipe.yaml"
    config.write_text(f"base: {tiny_base}\nout: {tmp_path / 'run'}\ndata: {{path: {shards}}}\n")
    command = ["--config", str(config), f"data.latents_folder={tmp_path / 'latents'}", "hardware.accelerator=cpu"]
    assert latents.main(command) == 0
    assert "the latents of 70 images in 2 parts" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "latents").rglob("*.*")) == [
        "00000-0000.safetensors", "00001-0000.safetensors",
    ]  # fmt: skip
    assert latents.main([*command, "data.path=/nowhere"]) == 2
    assert "jedi.training.latents: no data folder /nowhere/train" in capsys.readouterr().err
    part = next((tmp_path / "latents").rglob("*.safetensors"))
    part.write_bytes(b"")
    assert latents.main(command) == 2
    assert f"{part}: damaged" in capsys.readouterr().err.splitlines()[-1]
