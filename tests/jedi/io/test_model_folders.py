"""Damaged and hostile JSON files in model folders: an error of one line, or a model that computes finite numbers."""

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jedi.captions import encode_captions
from jedi.errors import InputError, one_line
from jedi.io.base import FILES, INDEX, PARTS, check_parts, load_base, load_parts
from jedi.pipeline import JediPipeline, image_generators
from jedi.vae import decode_latents, encode_pixels

TRIALS = 60
"""Of each JSON file."""
FILES_OF_PARTS = {part: [file] for part, (file, _, _) in FILES.items()} | {
    "tokenizer": ["tokenizer_config.json", "tokenizer.json"],
}
VALUES = (
    None, True, False, "", "x", "\u0000", -1, 0, 1, 3, 10**5, 10**9, 10**30, -(10**9), 0.5, -0.5, 1e-300, 1e308,
    float("nan"), float("inf"), [], {}, [None], [1] * 40, [[[[[[[[[[1]]]]]]]]]], {"a": {"b": 1}}, "../../x", 2**63,
)  # fmt: skip
RAW = (
    b"", b"{", b"[]", b"null", b"1", b"\xff\xfe{}", b"\x00" * 99, b"[" * 100_000, b'{"a": ' + b"9" * 9_000 + b"}",
    b'{"\\ud800": 1}', b"\xef\xbb\xbf{}",
)  # fmt: skip


def mutations(text: str, seed: int, count: int):
    """``count`` changed versions of a JSON file, as bytes: a value replaced, removed or added; a broken file."""
    chance = random.Random(seed)
    for _ in range(count):
        if chance.random() < 0.15:
            data = text.encode()
            yield chance.choice((*RAW, data[: chance.randrange(len(data))]))
            continue
        values = json.loads(text)
        for _ in range(chance.choice((1, 1, 2))):
            place, key = values, chance.choice(sorted(values))
            while isinstance(place[key], (dict, list)) and place[key] and chance.random() < 0.6:
                place = place[key]
                key = chance.choice(sorted(place) if isinstance(place, dict) else range(len(place)))
            what = chance.random()
            if what < 0.15:
                del place[key]
            elif what < 0.3 and type(place[key]) in (int, float):
                place[key] = place[key] * chance.choice((-1, 2, 1000, 0.5))
            else:
                place[key] = chance.choice(VALUES)
            if not values:
                break
        yield json.dumps(values).encode()


def runs(parts: dict, changed: str) -> bool:
    """Whether the part that was changed computes finite numbers."""
    with torch.no_grad():
        if changed in ("tokenizer", "text_encoder"):
            model = SimpleNamespace(**parts, text_encoder_2=None)
            found = encode_captions(model, ["a cat", "", "zebra " * 50]).embeds
        elif changed == "vae":
            found = decode_latents(parts["vae"], encode_pixels(parts["vae"], torch.rand(1, 3, 32, 32)))
        else:
            made = {"trained_modes": ["one_way", "mutual"], **parts}
            pipe = JediPipeline(**made)
            pipe.set_progress_bar_config(disable=True)
            options = {"num_inference_steps": 2, "output_type": "latent", "generator": image_generators(0, 1)}
            found = pipe("a cat", **options).images
    return bool(found.isfinite().all())


@pytest.fixture(scope="module")
def whole(tiny_model) -> dict:
    """The parts of an undamaged model."""
    return load_parts(tiny_model)


@pytest.mark.slow
@pytest.mark.parametrize(("part", "file"), [(part, file) for part in PARTS for file in FILES_OF_PARTS[part]])
def test_mutated_files_of_parts(part, file, whole, tiny_model, tmp_path, capfd):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model / part, folder / part)
    shutil.copy(tiny_model / INDEX, folder)
    text, mishandled, outcomes = (folder / part / file).read_text(), [], {"refused": 0, "loaded": 0}
    for i, data in enumerate(mutations(text, seed=PARTS.index(part), count=TRIALS)):
        (folder / part / file).write_bytes(data)
        try:
            parts = whole | load_parts(folder, [part])
            check_parts(parts, str(folder))
            assert runs(parts, part), "not finite"
            outcomes["loaded"] += 1
        except InputError as error:
            outcomes["refused"] += 1
            if len(one_line(error)) > 1000:
                mishandled.append((i, data[:3000], str(error)))
        except BaseException as error:  # a panic of a Rust library is no Exception
            mishandled.append((i, data[:3000], repr(error)[:300]))
    assert not mishandled, f"{len(mishandled)} of {TRIALS} mishandled: {mishandled[:3]}"
    assert outcomes["refused"] > TRIALS / 4, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["base", "model"])
def test_mutated_indices(kind, tiny_base, tiny_model, tmp_path, monkeypatch):
    source, load = {"base": (tiny_base, load_base), "model": (tiny_model, JediPipeline.from_pretrained)}[kind]
    folder = shutil.copytree(source, tmp_path / "model")
    loaded = load_parts(folder)
    monkeypatch.setattr(
        "jedi.io.base.load_part", lambda kind, path, **_: loaded[Path(path).name]
    )  # built once is enough
    text, mishandled, refused = (folder / INDEX).read_text(), [], 0
    for i, data in enumerate(mutations(text, seed=7, count=3 * TRIALS)):
        (folder / INDEX).write_bytes(data)
        try:
            found = load(folder)
            if kind == "model":
                assert set(found.config.trained_modes) <= {"one_way", "mutual"}
                found.sampling_settings()
        except InputError as error:
            refused += 1
            if len(one_line(error)) > 1000:
                mishandled.append((i, data[:3000], str(error)))
        except BaseException as error:
            mishandled.append((i, data[:3000], repr(error)[:300]))
    assert not mishandled, f"{len(mishandled)} of {3 * TRIALS} mishandled: {mishandled[:3]}"
    assert refused > TRIALS / 2
