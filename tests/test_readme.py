"""Every command in README.md and docs/ runs, as written, in a copy of the checkout; long ones run shortened.

The copy is what a fresh clone would hold, with the environment of this test run in place of its `.venv`. The
commands run in the order of the pages, since later ones use what earlier ones made; what several pages say runs once.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evaluate  # noqa: F401 (these three load what the commands need, once)
import jedi.pipeline
import jedi.training.trainer  # noqa: F401
from tests import forked
from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = ("sampling", "training", "data", "evaluation", "stable_diffusion")  # docs/extending.md has a test of its own
PAGES = [README, *((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in GUIDES)]

TINY_DATA = "sets=24 heldout_sets=8 sets_per_shard=12 resolution=32 workers=1"
TINY_BASE = "vae.steps=3 text.steps=3 images=64"
TINY_TRAIN = (
    "max_steps=2 batch_size=2 data.workers=0 checkpoints.every_steps=1 validation.every_steps=2 "
    "validation.sets=2 samples.every_steps=2 samples.subjects=1 samples.steps=2"
)
# README command -> what is run in its place. None: not run, for the reason given.
SHORTER = {
    "make test": None,  # this very suite
    "make tiny": (
        f'make tiny BIN=.venv/forked TINY_DATA="{TINY_DATA}" TINY_BASE="{TINY_BASE}" TINY_TRAIN="{TINY_TRAIN}"'
    ),
    # What `make tiny` made is continued under the same settings.
    "python -m data_gen run --config configs/data_gen/tiny.yaml": (
        f"python -m data_gen run --config configs/data_gen/tiny.yaml {TINY_DATA}"
    ),
    "python -m jedi_toy.tiny_base --config configs/base/tiny.yaml": (
        f"python -m jedi_toy.tiny_base --config configs/base/tiny.yaml {TINY_BASE}"
    ),
    "python train.py --config configs/train/tiny.yaml": (
        f"python train.py --config configs/train/tiny.yaml {TINY_TRAIN}"
    ),
    "python train.py --config configs/train/tiny.yaml max_steps=2000 optimizer.lr=1e-4": (
        f"python train.py --config configs/train/tiny.yaml {TINY_TRAIN} optimizer.lr=1e-4 out=runs/slower"
    ),
    "python train.py --config configs/train/tiny.yaml out=runs/tiny-lora lora.rank=16 optimizer.lr=1e-4": (
        f"python train.py --config configs/train/tiny.yaml {TINY_TRAIN} out=runs/tiny-lora lora.rank=16"
    ),
    # Enough for the 100 among which a subject is to be recognised.
    "python -m data_gen run --config configs/data_gen/benchmark.yaml": (
        "python -m data_gen run --config configs/data_gen/benchmark.yaml heldout_sets=160"
    ),
    "python evaluate.py toy --data data/benchmark --out out/toy --quick": (
        "python evaluate.py toy --data data/benchmark --out out/toy --quick --subjects 6 --steps 4"
    ),
}


# docs/stable_diffusion.md: on the small base that `make tiny` made, its data and its size.
BASE = "runs/tiny-base"
RECIPE = f"base={BASE} data.path=data/tiny micro_batch_size=1 hardware.precision=32-true log.loggers=[csv] {TINY_TRAIN}"
SAMPLE = 'python sample.py --model {} --references assets/references/hamster --prompt "an animal on a beach"'
LOOK = (
    "python -m data_gen run --config configs/data_gen/s3_sdxl.yaml sets=20 heldout_sets=4 sets_per_unit=4 "
    "prompts.subjects=40 out=data/look"
)
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
LORA, WHOLE = (f"--config configs/train/{name}.yaml" for name in ("sd15_lora", "sd15"))
DREAMBENCH = "python evaluate.py dreambench --data dreambooth/dataset --model"
SHORTER |= {
    SAMPLE.format(SD15) + " --out out/first": SAMPLE.format(BASE) + " --out out/first --steps 2",
    LOOK: f"{LOOK} --print-config",  # its models are large: tests/data_gen runs small ones of each kind
    f"python -m jedi.training.latents {LORA}": f"python -m jedi.training.latents {LORA} {RECIPE}",
    f"python train.py {LORA}": f"python train.py {LORA} {RECIPE}",
    f"python train.py {WHOLE} ema.device=cpu ema.every_steps=10 optimizer.name=adamw_8bit": (
        f"python train.py {WHOLE} ema.device=cpu ema.every_steps=10 {RECIPE}"  # bitsandbytes is not installed
    ),
    f"python train.py {WHOLE} micro_batch_size=16": (
        f"python train.py {WHOLE} {RECIPE} batch_size=4 micro_batch_size=2 out=runs/sd15-wide"
    ),
    # Need the benchmark's photos and encoders of the hub: tests/jedi/evaluation/test_dreambench.py has small ones.
    f"{DREAMBENCH} {SD15} --out out/db-base": None,
    f"{DREAMBENCH} runs/sd15_lora --beside out/db-base --out out/db": None,
}


def blocks(language: str) -> list[str]:
    return [block for page in PAGES for block in re.findall(rf"^```{language}\n(.*?)^```", page, re.M | re.S)]


def commands() -> list[str]:
    """The commands of all bash blocks: lines, continued ones joined, comments left out, each once."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    found = [" ".join(line.split()) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("clone")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    # An environment that is this one, with stamps of its own: make finds everything installed.
    (folder / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        if Path(sys.prefix, name).exists():
            (folder / ".venv" / name).symlink_to(Path(sys.prefix, name))
    for name in (".demo", ".data", ".test"):
        (folder / ".venv" / name).touch()
    # Its model samples in 3 steps, where no number of steps is given.
    index = folder / "models" / "jedi-tiny" / "model_index.json"
    settings = json.loads(index.read_text())
    settings["sampling_defaults"]["num_inference_steps"] = 3
    index.write_text(json.dumps(settings))
    # An interpreter that costs less, where a command starts several.
    (folder / ".venv" / "forked").mkdir()
    (folder / ".venv" / "forked" / "uv").symlink_to(folder / ".venv" / "bin" / "uv")
    with forked.interpreter(folder / ".venv" / "forked" / "python"):
        yield folder


def run(command: str, clone: Path) -> None:
    """Runs a line of bash. Python is a child of this process; `make demo` starts a real interpreter."""
    if command.startswith("python "):
        code, said = forked.run(forked.python(shlex.split(command)[1:], clone))
    else:
        inherited = ("MAKE", "PYTHONPATH", "MFLAGS")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(inherited)}
        environment["PATH"] = f"{clone / '.venv' / 'bin'}:{environment['PATH']}"
        done = subprocess.run(["bash", "-c", command], cwd=clone, env=environment, capture_output=True, text=True)
        code, said = done.returncode, done.stdout[-2000:] + done.stderr
    assert code == 0, f"{command}\n{said[-4000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_command(command, clone):
    shorter = SHORTER.get(command, command)
    if shorter is None:
        pytest.skip("not run from here, see SHORTER")
    run(shorter, clone)
    for folder in re.findall(r"--out[ =](\S+)", command):
        assert any((clone / folder).iterdir()), f"{folder} is empty"
    if command == "make demo":
        made = {path.name for path in (clone / "out" / "demo").iterdir()}
        assert {"0000.png", "grid.png", "samples.json"} <= made


@pytest.mark.slow
def test_python_blocks(clone):
    """The Python examples, one after the other in one session."""
    if examples := "\n".join(blocks("python")):
        run(f"python -c {shlex.quote(examples)}", clone)


def test_the_two_commands_come_first():
    assert commands()[:2] == ["make demo", "make test"]


def test_the_table_holds_only_commands_of_the_pages():
    assert set(SHORTER) <= set(commands())


def test_the_guides_and_the_licence_are_linked():
    """That links lead somewhere is tested for all pages: tests/test_docs.py."""
    links = set(re.findall(r"\]\(([^)\s#]+)", README))
    assert {"LICENSE", *(f"docs/{name}.md" for name in (*GUIDES, "method", "architecture", "extending"))} <= links


def test_sections():
    """What issues 2 and 10 ask of the README."""
    assert len(README.splitlines()) <= 130, "a page: what is longer belongs into docs/"
    headings = [heading.lower() for heading in re.findall(r"^## (.*)", README, re.M)]
    wanted = "idea", "two commands", "sampling", "training", "data", "file map", "limits", "licen", "citation"
    for word in wanted:
        assert any(word in heading for heading in headings), f"no section on {word}"
    idea = re.search(r"^## [^\n]*idea[^\n]*\n(.*?)^## ", README, re.M | re.S | re.I)[1]
    text = [line for line in idea.splitlines() if line.strip() and not line.startswith(("!", "<"))]
    assert len(text) <= 10, "the idea in ten lines"
    assert re.search(r"!\[.*\]\(.+\)|<img", idea), "with an image"
    assert not re.findall(r"^(## .*)\n+(?=## |\Z)", README, re.M), "an empty section"
    assert not re.findall(r"^[A-Z]+$", README, re.M), "a placeholder"
    assert not [file.name for file in ROOT.glob("configs/**/*.yaml") if re.search(r"\bXX+\b", file.read_text())]
