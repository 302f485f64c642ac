"""Fixtures shared by all tests: small models of the real classes, a small folder of shards, random state."""

import copy
import gc
import io
import json
import os
import signal
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

# Before torch is imported: no test may look for a model hub, and tensors this small want few threads.
os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "error"})
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# rembg brings pymatting, which no test calls, and its numba would compile that for a minute when it is imported. It
# would also set OpenMP's threads to all cores, and then a forked process hangs in its first large sum.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

# Neither torch nor diffusers, which take seconds: of two processes' tests a third one reads this file, and runs none.
import numpy as np
import pytest
from PIL import Image

from tests.paths import ROOT

# Ignored in what nohup or a script starts in the background, which Python and the processes it starts inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = ("engine", "resuming", "train", "prompts_llm", "readme", "run", "front_door", "docs")
"""Modules that take about half a minute or more, most first."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """The libraries come without a look for garbage, a quarter of their time, and are never looked through again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long modules first, then by their slow tests: of two processes none is left alone with a long one."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    place = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (place.get(item.path.stem, len(place)), -slow[item.path]))


@pytest.fixture(autouse=True)
def equal_random_state():
    """Each test starts from the same random state and with as many threads, whatever ran before it."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment for subprocesses: the checkout first, one thread, no hub, no other environment that was activated."""
    inherited = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    return {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter that runs the tests."""
    return sys.executable


@pytest.fixture(scope="session")
def _tiny_components() -> dict:
    from tests import tiny

    return tiny.components()


@pytest.fixture
def tiny_components(_tiny_components) -> dict:
    """vae, text_encoder, tokenizer, unet (plain, in_channels 4) and scheduler: a fresh copy for each test."""
    return copy.deepcopy(_tiny_components)


@pytest.fixture(scope="session")
def tiny_base(_tiny_components, tmp_path_factory) -> Path:
    """A plain StableDiffusionPipeline folder (in_channels = c). Read only."""
    from tests import tiny

    return tiny.save_base(_tiny_components, tmp_path_factory.mktemp("tiny_base"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A JediPipeline folder (in_channels = 2c + 1), random weights, both modes. Read only."""
    from jedi.pipeline import JediPipeline
    from tests import tiny

    folder = tmp_path_factory.mktemp("tiny_model")
    parts = tiny.components(in_channels=2 * tiny.LATENT_CHANNELS + 1)
    pipe = JediPipeline(**parts, trained_modes=["one_way", "mutual"], max_trained_references=3)
    pipe.save_pretrained(folder)
    return folder


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(folder: Path, name: str, sizes: list[int], pixels: int | tuple[int, int], seed: int) -> Path:
    """One shard of the public format, written without data_gen: an independent reading of that format.

    Each set shows a square of the subject's colour, on a background that differs from image to image. ``pixels``: a
    side, or width and height.
    """
    folder.mkdir(parents=True, exist_ok=True)
    width, height = (pixels, pixels) if isinstance(pixels, int) else pixels
    random = np.random.default_rng(seed)
    with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for index, size in enumerate(sizes):
            key = f"{name}-{index:04d}"
            colour = random.integers(64, 256, 3)
            record = {
                "key": key,
                "subject": {
                    "id": key,
                    "name": "cup",
                    "class": "object",
                    "code_point": "1F375",
                    "recolouring": index,
                },
                "captions": [f"a cup number {i} on the beach" for i in range(size)],
                "images": [{"background": "beach", "member": i} for i in range(size)],
                "source": "test",
                "seed": seed,
                "licence": "CC0-1.0",
            }
            _add(tar, f"{key}.json", json.dumps(record).encode())
            for i in range(size):
                mask, side = np.zeros((height, width), np.uint8), min(width, height) // 2
                top, left = random.integers(0, side, 2)
                mask[top : top + side, left : left + side] = 255
                background = random.integers(0, 256, 3)
                image = np.where(mask[..., None] == 255, colour, background).astype(np.uint8)
                _add(tar, f"{key}.{i}.png", _png(image))
                _add(tar, f"{key}.{i}.mask.png", _png(mask))
    data = (folder / f"{name}.tar").read_bytes()
    manifest = {
        "format": 1,
        "shard": f"{name}.tar",
        "bytes": len(data),
        "sha256": sha256(data).hexdigest(),
        "split": folder.name,
        "config_hash": "0" * 16,
        "counts": {"sets": len(sizes), "images": sum(sizes), "dropped": {}},
        "sets": [{"key": f"{name}-{i:04d}", "n": n, "width": width, "height": height} for i, n in enumerate(sizes)],
    }
    (folder / f"{name}.json").write_text(json.dumps(manifest, indent=1))
    return folder / f"{name}.tar"


def add_offsets(shard: Path) -> None:
    """Writes where the members lie into the manifest of ``shard`` (a path without suffix), as data_gen does."""
    manifest = json.loads(shard.with_suffix(".json").read_text())
    places: dict[str, list[str]] = {}
    with tarfile.open(shard.with_suffix(".tar")) as tar:
        for member in tar:
            key, _, ending = member.name.partition(".")
            places.setdefault(key, []).append(f"{ending}:{member.offset_data}:{member.size}")
    manifest["sets"] = [{**row, "members": " ".join(places[row["key"]])} for row in manifest["sets"]]
    shard.with_suffix(".json").write_text(json.dumps(manifest))


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """DIR/train (2 shards, 20 sets of 3 or 4 images) and DIR/heldout (1 shard, 6 sets of 4). Read only."""
    from tests import tiny

    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "train", "00000", [4, 3] * 5, tiny.PIXELS, seed=1)
    write_shard(folder / "train", "00001", [3, 4] * 5, tiny.PIXELS, seed=2)
    write_shard(folder / "heldout", "00000", [4] * 6, tiny.PIXELS, seed=3)
    return folder
