"""sample.py: from the command line to a folder, or to one clear line."""

import io
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sample
from tests.paths import DREAMBOOTH, needs_dreambooth


def photo(path, seed=0, size=(40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
    return path


@pytest.fixture
def request_in(tmp_path, tiny_model, monkeypatch):
    """A folder to work in, with references; gives a function that runs sample.py there with good defaults."""
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "photos" / "a.png", 1)
    photo(tmp_path / "photos" / "b.jpg", 2, (20, 50))

    def run(*arguments, references=("photos",), **changed) -> int:
        given = {"model": tiny_model, "prompt": "a cat", "out": "out", "steps": 2} | changed
        command = [x for key, value in given.items() if value is not None for x in (f"--{key}", value)]
        command += ["--references", *references] if references else []
        return sample.main([str(x) for x in (*command, *arguments)])

    return run


def names(folder: Path) -> list[str]:
    return sorted(x.name for x in folder.iterdir())


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


# --- what it writes


def test_images_a_grid_and_a_record(request_in, tmp_path, capsys):
    assert request_in("--prompt", "a dog", "--num-images-per-prompt", "2", "--seed", "5") == 0
    out = tmp_path / "out"
    assert names(out) == ["0000.png", "0001.png", "0002.png", "0003.png", "grid.png", "samples.json"]
    assert names(tmp_path) == ["out", "photos"]
    assert Image.open(out / "0000.png").size == (32, 32)
    assert "4 images" in capsys.readouterr().out
    record = json.loads((out / "samples.json").read_text())
    assert [x["prompt"] for x in record["images"]] == ["a cat", "a cat", "a dog", "a dog"]
    assert [x["seed"] for x in record["images"]] == [5, 6, 7, 8]
    assert [Path(x["file"]).name for x in record["references"]] == ["a.png", "b.jpg"]
    assert record["settings"]["num_inference_steps"] == 2 and record["settings"]["guidance"] == "two_branch"
    assert record["settings"]["scheduler"]["_class_name"] == "DDIMScheduler"
    assert set(record["versions"]) >= {"torch", "diffusers", "jedi", "python"}
    grid = Image.open(out / "grid.png")
    assert grid.width > 4 * 160 and grid.height > 2 * 160  # two references and two results in a row


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_prompts_of_any_editor(tmp_path, encoding):
    (tmp_path / "prompts.txt").write_bytes("a dog\r\n\r\n# no\r\n a \u72d0\u2028in snow\r\n".encode(encoding))
    assert sample.read_prompts(tmp_path / "prompts.txt") == ["a dog", "a \u72d0\u2028in snow"]


def test_a_terminal_without_the_letters(request_in, tmp_path, monkeypatch):
    """What is done is said, and the exit code is that of success."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    assert request_in(out="\u72d0") == 0
    terminal.flush()
    assert b"beside the references: \\u72d0/grid.png" in terminal.buffer.getvalue()
    assert (tmp_path / "\u72d0" / "0000.png").is_file()


@pytest.mark.parametrize("references", [("photos",), ("photos/a.png", "photos/../photos"), ("photos/a.png",)])
def test_results_never_come_among_the_references(request_in, tmp_path, capsys, references):
    for subject in ((), ("--subject", "cat=photos")):
        assert request_in(*subject, references=() if subject else references, out="photos") == 2
        assert "--out photos is a folder of references" in capsys.readouterr().err
    assert names(tmp_path / "photos") == ["a.png", "b.jpg"]


def test_results_as_references_come_without_their_contact_sheet(request_in, tmp_path, capsys):
    assert request_in() == 0 and request_in(references=("out",), out="again") == 0
    record = json.loads((tmp_path / "again" / "samples.json").read_text())
    assert [x["file"] for x in record["references"]] == ["out/0000.png"]
    assert "left out, no references: grid.png, samples.json" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("--prompt", "a ${dog} [1]: {x}", "--num-images-per-prompt", "2", "--guidance-scale", "3", "--seed", "5"),
        ("--joint", "--prompt", "a dog", "--scheduler", "unipc"),
        ("--subject", "fox=photos", "--subject", "cat=photos"),
    ],
)
def test_a_record_is_a_request(request_in, tmp_path, capsys, more):
    assert request_in(*more, references=() if "--subject" in more else ("photos",)) == 0
    assert sample.main(["--config", "out/samples.json"]) == 2 and "give --out DIR" in capsys.readouterr().err
    assert sample.main(["--config", "out/samples.json", "--out", "again"]) == 0
    one, other = (json.loads((tmp_path / x / "samples.json").read_text()) for x in ("out", "again"))
    assert one == other
    for file in one["files"]:
        assert (pixels(tmp_path / "out" / file) == pixels(tmp_path / "again" / file)).all()
    assert "has changed" not in capsys.readouterr().err
    photo(tmp_path / "photos" / "a.png", 9)
    assert sample.main(["--config", "out/samples.json", "--out", "third", "--prompt", "a cow"]) == 0
    assert "photos/a.png has changed since" in capsys.readouterr().err
    record = json.loads((tmp_path / "third" / "samples.json").read_text())
    assert {x["prompt"] for x in record["images"]} == {"a cow"} and record["settings"] == one["settings"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        {"references": [3]}, {"references": {"a": 1}}, {"references": None}, {"references": [{"file": "a.png"}]},
        {"references": [{"file": 3, "sha256": "0"}]}, {"edit": None}, {"edit": [1]}, {"edit": {"image": "a.png"}},
    ],
)  # fmt: skip
def test_a_record_with_damaged_lists_is_one_line(request_in, tmp_path, capsys, damage):
    assert request_in(steps=1) == 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    (tmp_path / "r.json").write_text(json.dumps(record | damage))
    capsys.readouterr()
    assert sample.main(["--config", "r.json", "--out", "again"]) == 2
    assert capsys.readouterr().err.startswith("sample.py: --config r.json: a damaged record, ")
    (tmp_path / "r.json").write_text(json.dumps(record["request"]))  # the remedy that is named
    assert sample.main(["--config", "r.json", "--out", "again"]) == 0


@pytest.mark.parametrize("request_", ['{"steps": "x"}', '{"stepz": 1}', '{"prompts": 3}', "3"])
def test_a_damaged_record_is_one_line(tmp_path, monkeypatch, capsys, request_):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples.json").write_text(f'{{"request": {request_}}}')
    assert sample.main(["--config", "samples.json", "--out", "out", "--prompt", "a cat"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_a_model_knows_is_said(request_in, tiny_model, tmp_path, capsys):
    index = shutil.copytree(tiny_model, tmp_path / "mine") / "model_index.json"
    assert request_in(model="mine", out="one") == 0 and "knows" not in capsys.readouterr().err
    index.write_text(json.dumps({**json.loads(index.read_text()), "knows": "cats in hats"}))
    assert request_in(model="mine") == 0
    assert "what mine knows: cats in hats\n" in capsys.readouterr().err


def test_a_negative_prompt(request_in, tmp_path):
    assert request_in(out="plain") == 0 and request_in("--negative-prompt", "a dog") == 0
    assert np.abs(pixels(tmp_path / "plain" / "0000.png") - pixels(tmp_path / "out" / "0000.png")).max() > 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["request"]["negative_prompt"] == record["settings"]["negative_prompt"] == "a dog"


def test_a_size_of_ones_own(request_in, tmp_path, capsys):
    assert (
        request_in("--height", "24", "--width", "40", "--reference-resize", "keep", references=("photos/a.png",)) == 0
    )
    assert Image.open(tmp_path / "out" / "0000.png").size == (40, 24)
    settings = json.loads((tmp_path / "out" / "samples.json").read_text())["settings"]
    assert [settings[x] for x in ("height", "width", "reference_resize")] == [24, 40, "keep"]
    assert request_in("--height", "25") == 2
    assert "sample.py: height 25: the model makes multiples of 4; the nearest: 24 and 28\n" in capsys.readouterr().err
    assert request_in("--subject", "fox=photos", "--subject", "cat=photos", "--width", "64", references=()) == 0


@pytest.mark.slow
@pytest.mark.parametrize("scales", [(), ("--image-guidance-scale", "2", "--guidance-scale", "3")])
def test_the_record_is_enough_to_make_one_of_the_images_again(request_in, tmp_path, scales):
    assert request_in("--prompt", "a dog", "--num-images-per-prompt", "2", *scales) == 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    used, made = record["settings"], record["images"][3]
    assert sample.main([
        "--references", *(x["file"] for x in record["references"]), "--model", record["model"]["name"],
        "--prompt", made["prompt"], "--seed", str(made["seed"]), "--steps", str(used["num_inference_steps"]),
        "--guidance", used["guidance"], "--guidance-scale", str(used["guidance_scale"]),
        "--image-guidance-scale", str(used["image_guidance_scale"]), "--mode", used["mode"], "--out", "again",
    ]) == 0  # fmt: skip
    difference = pixels(tmp_path / "again" / "0000.png") - pixels(tmp_path / "out" / made["file"])
    assert abs(difference).max() <= 1
    again = json.loads((tmp_path / "again" / "samples.json").read_text())
    assert again["model"] == record["model"] and again["references"] == record["references"]
    assert set(record["model"]["sha256"]) == {"unet", "vae", "text_encoder"}


def test_the_record_names_the_stored_weights_and_nothing_of_chance(request_in, tmp_path):
    records = []
    for dtype in ("float32", "bfloat16"):
        assert request_in("--dtype", dtype, "--scheduler", "dpm++") == 0
        records.append(json.loads((tmp_path / "out" / "samples.json").read_text()))
    assert records[0]["model"] == records[1]["model"]
    assert len(set(records[0]["model"]["sha256"].values())) == 3
    assert not any("_use_default_values" in record["settings"]["scheduler"] for record in records)


def test_loras_of_the_base(request_in, tmp_path, capsys):
    from safetensors.torch import save_file

    from tests.jedi.sampling import kohya

    save_file(kohya(conv_in=True), "style.safetensors")
    save_file({"lora_unet_no_such.alpha": torch.tensor(1.0)}, "other.safetensors")
    assert request_in(out="plain", steps=1) == 0
    for out, lora in (("off", "style.safetensors=0"), ("out", "style.safetensors=8")):
        assert request_in("--lora", lora, out=out, steps=1) == 0
    plain, off, styled = (pixels(tmp_path / x / "0000.png") for x in ("plain", "off", "out"))
    assert not (plain - off).any() and (plain - styled).any()
    (lora,) = json.loads((tmp_path / "out" / "samples.json").read_text())["loras"]
    assert lora["file"] == "style.safetensors" and lora["scale"] == 8 and len(lora["sha256"]) == 64
    capsys.readouterr()
    for lora, said in (
        ("none.safetensors", "no .safetensors file"),
        ("style.safetensors=x", "its scale is no number"),
        ("other.safetensors", "cannot be loaded into this model: "),
    ):
        assert request_in("--lora", lora) == 2
        assert f"sample.py: --lora {lora}: {said}" in capsys.readouterr().err


def test_less_memory(request_in, monkeypatch, capsys, tmp_path):
    assert request_in("--offload", "model") == 2
    assert "--offload: on a CPU there is nothing to offload from" in capsys.readouterr().err
    assert request_in("--offload", "parts") == 2
    assert "--offload 'parts': known are model, sequential" in capsys.readouterr().err
    seen = []
    for how in ("model", "sequential"):
        note = lambda pipe, device, how=how: seen.append((how, device, pipe.device.type, pipe.vae.use_tiling))
        monkeypatch.setattr(f"jedi.pipeline.JediPipeline.enable_{how}_cpu_offload", note)
    find = lambda device: "cpu" if device == "cpu" else "cuda"
    for place in ("jedi.loading.find_device", "sample.find_device"):
        monkeypatch.setattr(place, find)
    assert request_in("--offload", "sequential", "--vae-tiling") == 0
    assert seen == [("sequential", "cuda", "cpu", True)]
    recorded = json.loads((tmp_path / "out" / "samples.json").read_text())["settings"]
    assert (recorded["offload"], recorded["device"]) == ("sequential", "cuda")


@pytest.mark.parametrize("fast", [True, False])
def test_a_dtype_that_the_cpu_is_slow_in_is_said(request_in, monkeypatch, capsys, fast):
    monkeypatch.setattr("jedi.loading.cpu_computes_in", lambda dtype: fast)
    assert request_in("--dtype", "bfloat16", steps=1) == 0
    assert ("--dtype bfloat16: this CPU has no fast arithmetic" in capsys.readouterr().err) == (not fast)


def test_the_last_seeds_there_are(request_in, tmp_path):
    assert request_in("--seed", str(2**64 - 2), "--num-images-per-prompt", "2", steps=1) == 0
    assert request_in("--seed", str(2**64 - 1), steps=1, out="last") == 0
    assert (tmp_path / "last" / "0000.png").read_bytes() == (tmp_path / "out" / "0001.png").read_bytes()


@pytest.mark.slow
def test_the_same_command_again_gives_the_same_bytes(request_in, tmp_path):
    assert request_in("--num-images-per-prompt", "3") == 0
    before = {x.name: x.read_bytes() for x in (tmp_path / "out").iterdir()}
    assert request_in("--num-images-per-prompt", "3") == 0
    assert {x.name: x.read_bytes() for x in (tmp_path / "out").iterdir()} == before
    assert request_in("--num-images-per-prompt", "1") == 0
    assert names(tmp_path / "out") == ["0000.png", "grid.png", "samples.json"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["one_way", "mutual"])
def test_batches_do_not_show(request_in, tmp_path, mode):
    for size in ("1", "2"):
        options = ("--num-images-per-prompt", "3", "--mode", mode, "--batch-size", size)
        assert request_in(*options, out=f"out{size}") == 0
    for i in range(3):
        one, two = (pixels(tmp_path / f"out{size}" / f"{i:04d}.png") for size in (1, 2))
        assert abs(one - two).max() <= 1


def test_a_story(request_in, tmp_path):
    assert request_in("--prompt", "a dog", "--joint", "--num-images-per-prompt", "2") == 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert [x["prompt"] for x in record["images"]] == ["a cat", "a dog", "a cat", "a dog"]
    assert request_in("--prompt", "a dog", out="alone") == 0
    assert (pixels(tmp_path / "out" / "0000.png") != pixels(tmp_path / "alone" / "0000.png")).any()


@pytest.mark.parametrize("mode", ["one_way", "mutual"])
def test_several_subjects_stand_in_a_row_and_go_by_their_names(request_in, tmp_path, monkeypatch, mode):
    from jedi.pipeline import JediPipeline

    photo(tmp_path / "hats" / "c.png", 3)
    seen, inner = [], JediPipeline._reference_inputs

    def spy(self, given, size):
        seen.append((given.images, given.captions))
        return inner(self, given, size)

    monkeypatch.setattr(JediPipeline, "_reference_inputs", spy)
    assert request_in("--subject", "dog=photos", "--subject", "hat=hats", "--mode", mode, references=()) == 0
    ((references, prompts),) = seen
    assert prompts == ["dog", "dog", "hat"]
    for image, left in zip(references, (True, True, False), strict=True):
        pixels = np.asarray(image).astype(int)
        assert pixels.shape == (32, 32, 3)
        other = pixels[:, 16:] if left else pixels[:, :16]
        own = pixels[8:24, :16] if left else pixels[8:24, 16:]
        assert other.std((0, 1)).max() == 0 and own.std() > 10
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert [x["subject"] for x in record["references"]] == ["dog", "dog", "hat"]

    # one named subject is not moved, only named
    assert request_in("--subject", "hat=hats", "--mode", mode, references=(), out="one") == 0
    assert seen[1][1] == ["hat"] and seen[1][0][0].size == (32, 32)


def test_an_edit(request_in, tmp_path):
    before = pixels(photo(tmp_path / "room.png", 3, (48, 36)))
    mask = Image.new("L", (48, 36))
    mask.paste(255, (10, 8, 30, 30))
    mask.save(tmp_path / "mask.png")
    assert request_in("--image", "room.png", "--mask-image", "mask.png") == 0
    after = pixels(tmp_path / "out" / "0000.png")
    inside = np.asarray(mask) > 0
    np.testing.assert_array_equal(after[~inside], before[~inside])
    assert (after[inside] != before[inside]).mean() > 0.5
    assert set(json.loads((tmp_path / "out" / "samples.json").read_text())["edit"]) == {"image", "mask_image"}


def test_prompts_from_a_file_and_settings_from_a_config(request_in, tmp_path):
    (tmp_path / "prompts.txt").write_text("﻿a cat on grass\n\n# not this\n  a bird  \n", encoding="utf-8")
    (tmp_path / "sample.yaml").write_text("prompts: [a dog]\nsteps: 5\nguidance_scale: 2.5\nmode: mutual\n")
    assert request_in("--config", "sample.yaml", "--prompts-file", "prompts.txt", prompt=None) == 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert [x["prompt"] for x in record["images"]] == ["a dog", "a cat on grass", "a bird"]
    assert record["settings"]["mode"] == "mutual" and record["settings"]["guidance_scale"] == 2.5
    assert record["settings"]["num_inference_steps"] == 2  # the option wins


@pytest.mark.parametrize("given", ["option", "config"])
def test_a_guidance_rule_of_an_extension(request_in, tmp_path, monkeypatch, given):
    module = f"extension_by_{given}"
    (tmp_path / f"{module}.py").write_text(
        "from jedi.guidance import GUIDANCE, Guidance\n"
        f"GUIDANCE.register('{module}')(Guidance(('full',), lambda e, s_text, s_refs: e['full']))\n"
    )
    (tmp_path / "sample.yaml").write_text(f"extensions: [{module}]\n")
    monkeypatch.syspath_prepend(tmp_path)
    options = ("--extensions", module) if given == "option" else ("--config", "sample.yaml")
    assert request_in("--guidance", module, *options) == 0
    settings = json.loads((tmp_path / "out" / "samples.json").read_text())["settings"]
    assert settings["guidance"] == module and settings["extensions"] == [module]


@pytest.mark.slow
def test_every_configuration_that_ships_works(root, tmp_path, monkeypatch, tiny_model):
    monkeypatch.chdir(root)
    files = sorted((root / "configs" / "sample").glob("*.yaml"))
    assert files
    for file in files:
        text = file.read_text()
        assert f"# Command: python sample.py --config configs/sample/{file.name} " in text
        assert "# Cost: " in text and "# Expect: " in text
        command = text.split("# Command: python ")[1].splitlines()[0].split()[1:]
        command[-1] = str(tmp_path / file.stem)  # in place of --out out/...
        assert sample.main([*command, "--model", str(tiny_model), "--steps", "1"]) == 0


@pytest.mark.slow
def test_no_references_and_another_scheduler(request_in, tmp_path):
    assert request_in("--scheduler", "dpm++", references=None) == 0
    record = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert record["settings"]["scheduler"]["_class_name"] == "DPMSolverMultistepScheduler"
    assert record["references"] == []


def test_references_of_all_kinds(request_in, tmp_path):
    folder = tmp_path / "zoo"
    folder.mkdir()
    image = Image.open(photo(tmp_path / "photos" / "a.png", 1))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("L").save(folder / "grey.png")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.quantize(8).save(folder / "palette.gif")
    Image.fromarray(np.full((9, 70), 40_000, np.uint16)).save(folder / "deep.png")
    Image.new("RGB", (1, 1), "red").save(folder / "dot.png")
    assert request_in(references=["zoo"]) == 0


@needs_dreambooth
def test_real_photographs(request_in):
    assert request_in(references=[DREAMBOOTH / "teapot", DREAMBOOTH / "cat" / "00.jpg"]) == 0


def test_a_note_on_what_is_left_out(request_in, tmp_path, capsys):
    (tmp_path / "photos" / "notes.txt").write_text("x")
    assert request_in() == 0
    assert "notes.txt" in capsys.readouterr().err


# --- what it refuses


def junk(content: bytes, name: str = "junk.png") -> str:
    Path(name).write_bytes(content)
    return name


def half_a_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, "JPEG")
    return buffer.getvalue()[:900]


def huge() -> str:
    Image.new("1", (10_000, 9_000)).save("huge.png")
    return "huge.png"


def small_mask() -> tuple[str, ...]:
    Image.new("L", (8, 8), 255).save("small.png")
    return "--image", "photos/a.png", "--mask-image", "small.png"


def black_mask() -> tuple[str, ...]:
    photo(Path("room.png"))
    Image.new("L", (40, 30)).save("mask.png")
    return "--image", "room.png", "--mask-image", "mask.png"


def in_latin_1() -> str:
    """A folder of photos whose name a system of another encoding wrote."""
    photo(Path(folder := os.fsdecode(b"caf\xe9"), "a.png"))
    return folder


def without_weights(tiny_model: Path) -> str:
    folder = Path("broken")
    folder.mkdir()
    (folder / "model_index.json").write_text((tiny_model / "model_index.json").read_text())
    return "broken"


BAD = {
    "not an image": ({"references": lambda: [junk(b"hello")]}, (), "junk.png: not an image"),
    "truncated": ({"references": lambda: [junk(half_a_jpeg(), "x.jpg")]}, (), "x.jpg: broken or cut short"),
    "bomb": ({"references": lambda: [huge()]}, (), "huge.png: too many pixels"),
    "empty folder": ({"references": lambda: [Path("void").mkdir() or "void"]}, (), "void: a folder without"),
    "missing reference": ({"references": lambda: ["nowhere"]}, (), "nowhere: no such file"),
    "missing model": ({"model": lambda: "nowhere"}, (), "--model nowhere: no such folder"),
    "misspelt model": ({"model": lambda: "photos/nowhere"}, (), "--model photos/nowhere: no such folder"),
    "no model": ({"model": lambda: "photos"}, (), "--model photos: cannot be loaded"),
    "no prompt": ({"prompt": lambda: None}, (), "no prompt"),
    "blank prompt": ({"prompt": lambda: "  "}, (), "no prompt"),
    "empty prompts": ({"prompt": lambda: None}, ("--prompts-file", "photos/empty.txt"), "no prompt"),
    "missing prompts": ({}, ("--prompts-file", "nowhere.txt"), "nowhere.txt: No such file"),
    "binary prompts": ({}, ("--prompts-file", "photos/b.jpg"), "not a text file"),
    "no out": ({"out": lambda: None}, (), "--out"),
    "out is a file": ({"out": lambda: "photos/a.png"}, (), "photos/a.png is a file"),
    "out below a file": ({"out": lambda: "photos/a.png/out"}, (), "photos/a.png"),
    "zero steps": ({"steps": lambda: "0"}, (), "--steps must be a whole number of 1 or more"),
    "negative steps": ({"steps": lambda: "-4"}, (), "--steps must be a whole number of 1 or more"),
    "steps of text": ({"steps": lambda: "many"}, (), "--steps: invalid int value"),
    "too many steps": ({"steps": lambda: "100000"}, (), "num_inference_steps"),
    "a step too many": ({"steps": lambda: "1000"}, (), "num_inference_steps=1000 is too many: DDIMScheduler"),
    "too many images": ({}, ("--num-images-per-prompt", "9" * 12), "at most 100,000 are made"),
    "missing extension": ({}, ("--extensions", "no_such_module"), "no module 'no_such_module'"),
    "no images": ({}, ("--num-images-per-prompt", "0"), "--num-images-per-prompt must be a whole number of 1 or more"),
    "nan": ({}, ("--guidance-scale", "nan"), "--guidance-scale must be a number of 0 or more"),
    "inf": ({}, ("--image-guidance-scale", "inf"), "--image-guidance-scale must be a number of 0 or more"),
    "negative scale": ({}, ("--guidance-scale", "-2"), "--guidance-scale must be"),
    "negative seed": ({}, ("--seed", "-1"), "--seed must be"),
    "large seed": ({}, ("--seed", str(2**64)), "--seed must be a whole number from 0 to 2^64 - 1"),
    "a seed too many": ({}, ("--seed", str(2**64 - 1), "--num-images-per-prompt", "2"), "--seed must be"),
    "batch": ({}, ("--batch-size", "0"), "--batch-size must be"),
    "mode": ({}, ("--mode", "both"), "trained in one_way, mutual"),
    "guidance": ({}, ("--guidance", "plane"), "did you mean 'plain'"),
    "unused scale": ({}, ("--guidance", "plain", "--image-guidance-scale", "2"), "does not use image_guidance_scale"),
    "scheduler": ({}, ("--scheduler", "eulr"), "--scheduler 'eulr': known are ddim"),
    "dtype": ({}, ("--dtype", "int8"), "--dtype 'int8': known are float32"),
    "device": ({}, ("--device", "gpu7"), "--device gpu7"),
    "image alone": ({}, ("--image", "photos/a.png"), "--image and --mask-image go together"),
    "a prompt in another encoding": ({"prompt": lambda: "caf\udce9"}, (), "--prompt 'caf\\udce9': not UTF-8"),
    "a subject in another encoding": ({"references": list}, ("--subject", "\udce9=photos"), "--subject '\\udce9'"),
    "a folder in another encoding": ({"references": lambda: [in_latin_1()]}, (), "caf\\xe9: its name is not UTF-8"),
    "a model in another encoding": ({"model": lambda: "caf\udce9"}, (), "--model 'caf\\udce9': not UTF-8"),
    "an edit in another encoding": (
        {},
        ("--image", "\udce9.png", "--mask-image", "photos/a.png"),
        "--image '\\udce9.png'",
    ),
    "mask alone": ({}, ("--mask-image", "photos/a.png"), "--image and --mask-image go together"),
    "mask of another size": ({}, small_mask, "must agree"),
    "black mask": ({}, black_mask, "mask_image is black"),
    "subject without a folder": ({}, ("--subject", "fox"), "--subject fox: expected NAME=DIR"),
    "subject twice": ({}, ("--subject", "a=photos", "--subject", "a=photos"), "--subject a is given twice"),
    "subject and references": ({}, ("--subject", "a=photos"), "give one or the other"),
    "subject nowhere": ({"references": list}, ("--subject", "a=nowhere"), "nowhere: no such file"),
    "unknown option": ({}, ("--promt", "x"), "unrecognized arguments: --promt"),
    "missing config": ({}, ("--config", "none.yaml"), "none.yaml"),
    "unknown key": ({}, ("--config", "photos/bad.yaml"), "did you mean 'steps'"),
}


@pytest.mark.parametrize("case", BAD)
def test_one_clear_line_and_nothing_written(request_in, tmp_path, capsys, case):
    (tmp_path / "photos" / "empty.txt").write_text("\n# nothing\n")
    (tmp_path / "photos" / "bad.yaml").write_text("step: 3\n")
    changed, arguments, message = BAD[case]
    changed = {key: value() for key, value in changed.items()}
    arguments = arguments() if callable(arguments) else arguments
    before = sorted(tmp_path.rglob("*"))
    assert request_in(*arguments, **changed) == 2
    said = capsys.readouterr()
    lines = [x for x in said.err.splitlines() if "left out" not in x]
    assert len(lines) == 1 and lines[0].startswith("sample.py: ") and message in lines[0], said.err
    assert len(lines[0]) < 400 and not said.out
    assert sorted(tmp_path.rglob("*")) == before


def test_broken_and_plain_models(request_in, tmp_path, tiny_model, tiny_base, capsys):
    assert request_in(model=without_weights(tiny_model)) == 2
    assert "--model broken: cannot be loaded" in capsys.readouterr().err
    assert names(tmp_path) == ["broken", "photos"]
    assert request_in(model=tiny_base) == 0
    assert "untrained by JeDi: references in mode reference_only" in capsys.readouterr().err


def test_a_hub_name_without_a_network(request_in, tmp_path, capsys):
    assert request_in(model="some-one/some-model") == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "--model some-one/some-model: cannot be loaded" in error
    assert "hub" in error
    assert names(tmp_path) == ["photos"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where not even root may write")
def test_no_permission_to_write(request_in, capsys):
    assert request_in(out="/proc/out") == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "/proc" in error


def test_what_is_not_ours_is_not_overwritten(request_in, tmp_path, capsys):
    photo(tmp_path / "out" / "grid.png")
    before = (tmp_path / "out" / "grid.png").read_bytes()
    assert request_in() == 2
    assert "grid.png that no earlier run wrote" in capsys.readouterr().err
    assert (tmp_path / "out" / "grid.png").read_bytes() == before and names(tmp_path / "out") == ["grid.png"]


def test_an_interrupt_in_the_middle(request_in, tmp_path, monkeypatch, capsys):
    from jedi.pipeline import JediPipeline

    original, calls = JediPipeline.__call__, []

    def stop(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(JediPipeline, "__call__", stop)
    assert request_in("--num-images-per-prompt", "3", "--batch-size", "1") == 130
    assert "interrupted" in capsys.readouterr().err
    assert names(tmp_path) == ["photos"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_too_little_memory(request_in, tmp_path, monkeypatch, capsys, error):
    from jedi.pipeline import JediPipeline

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(JediPipeline, "__call__", fail)
    assert request_in() == 2
    assert capsys.readouterr().err.startswith("sample.py: out of memory; fewer --references or a smaller")
    assert names(tmp_path) == ["photos"]


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_to_the_real_command(python, environment, root, tiny_model, tmp_path, sent, code):
    photo(tmp_path / "a.png")
    command = [python, root / "sample.py", "--model", tiny_model, "--references", "a.png"]
    process = subprocess.Popen(
        [*command, "--prompt", "a cat", "--steps", "900", "--num-images-per-prompt", "50", "--out", "out"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background has it ignored
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not any(x.name.endswith(".tmp") for x in tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(sent)
        error = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == code, error
    assert "Traceback" not in error
    assert names(tmp_path) == ["a.png"]


@pytest.mark.slow
def test_the_real_command_from_another_folder(python, environment, root, tiny_model, tmp_path):
    """A fresh process loads the folder without a network, and says nothing but what matters."""
    photo(tmp_path / "a.png")
    ours = ("PYTHONPATH", "DIFFUSERS_VERBOSITY")
    clean = {key: value for key, value in environment.items() if key not in ours}
    command = [python, root / "sample.py", "--model", tiny_model, "--references", "a.png", "--prompt", "cat"]
    done = subprocess.run(
        [*command, "--out", "o", "--steps", "1"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert names(tmp_path / "o") == ["0000.png", "grid.png", "samples.json"]
    lines = [x for x in done.stderr.replace("\r", "\n").splitlines() if x.strip()]
    assert all(x.startswith("images made: ") for x in lines), lines  # the progress bar
