"""The documentation: its links, its commands, its site, its notebook."""

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import evaluate
import sample
from benchmarks import figures
from data_gen import __main__ as data_gen_command
from data_gen.config import load_config
from jedi.io.config import load
from jedi.training.config import TrainConfig
from jedi_toy.encoder.config import EncoderConfig
from jedi_toy.tiny_base.config import TinyBaseConfig
from tests.paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("models/*/*.md")])
MADE = ("out/", "runs/", "data/", "report/")
"""Folders that commands make."""
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
SCHEMAS = {"train.py": TrainConfig, "jedi_toy.tiny_base": TinyBaseConfig}
SCHEMAS |= {"jedi.training.latents": TrainConfig, "jedi_toy.encoder": EncoderConfig}


def commands(page: Path) -> list[str]:
    """Lines of code blocks, indented ones too, and pieces of code in the text, that begin with a command of ours."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^(?: {4})?((?:\w+=\$\()?(?:python|make|sbatch) .*)$", text, re.M)
    found += [" ".join(code.split()) for code in re.findall(r"`((?:python|make|sbatch) [^`]*)`", text)]
    return list(dict.fromkeys(re.sub(r"^\w+=\$\((.*)\)$", r"\1", line) for line in found))


def heading(text: str) -> str:
    """The anchor that GitHub and mkdocs give to a heading."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", text.lower()).strip())


@every_page
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in map(heading, headings), f"{page.name} links to {link}"


@every_page
def test_what_is_named_exists(page):
    """Files, modules and what they hold, where a page names them as code."""
    if page.name == "CHANGELOG.md":
        return
    for code in re.findall(r"`([\w./]+)`", page.read_text(encoding="utf-8")):
        if re.fullmatch(r"(?:\w+/)+[\w.]+\.(?:py|yaml|json|toml|css|sbatch)", code):
            assert (ROOT / code).exists() or code.startswith(MADE), f"{page.name} names {code}"
        elif re.fullmatch(r"(?:jedi|data_gen|jedi_toy)(?:\.\w+)+", code) and not code.endswith((".sbatch", ".yaml")):
            module, rest = code, []
            while not spec_of(module):
                module, _, name = module.rpartition(".")
                rest.insert(0, name)
            found = importlib.import_module(module)
            for name in rest:
                assert hasattr(found, name), f"{page.name} names {code}"
                found = getattr(found, name)


def spec_of(module: str) -> object:
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None


@every_page
def test_commands_can_be_given(page):
    """Each module, file, option, target, configuration and key of a command exists."""
    if page.name == "CHANGELOG.md":
        pytest.skip("it tells of commands by the names that they had")
    for command in commands(page):
        words = shlex.split(command, comments=True)
        if "..." in words or not words[1:]:
            continue
        known = {"python": check_python, "make": check_make, "sbatch": check_sbatch}[words[0]]
        try:
            known(words[1:])
        except (SystemExit, Exception) as error:
            pytest.fail(f"{page.name}: {command}\n{type(error).__name__}: {error}")


def test_figures_are_those_of_the_results(root):
    """`python -m benchmarks.figures` writes them."""
    marks = 0
    for name in figures.PAGES:
        text = (root / name).read_text(encoding="utf-8")
        assert figures.filled(text) == text, name
        marks += len(re.findall(r"<!-- (?:table|figure) ", text))
    assert marks >= 5
    for file in root.glob("benchmarks/results/*.json"):
        content = figures.results(file.stem)
        assert all(content[key] for key in ("what", "command", "commit", "date", "machine", "source")), file.name
        assert any(
            re.search(rf"<!-- (table|figure) {file.stem}\b", (root / name).read_text()) for name in figures.PAGES
        )


def test_figures_that_went_stale_are_seen():
    text = "<!-- table benchmarks -->\n| old |\n<!-- /table -->\n"
    text += "<!-- figure benchmarks.dataloader .1f -->9<!-- /figure -->"
    new = figures.filled(text)
    assert "| old |" not in new and "1.31 (1.28 to 1.35)" in new and ">1.3<" in new
    assert figures.cell({"value": 0.234, "low": 0.19, "high": 0.3}, "fraction") == ".23 [.19, .30]"
    assert figures.cell({"value": -0.02}, "fraction") == "-.02" and figures.cell(None, "percent") == ""


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    variables = re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(), re.M)
    for word in words:
        assert word in targets or word.partition("=")[0] in variables, word


def check_sbatch(words: list[str]) -> None:
    (script,) = (word for word in words if word.endswith(".sbatch")) if "--wrap" not in words else (None,)
    assert script is None or (ROOT / script).is_file()
    for word in words[words.index(script) + 1 :] if script else []:
        assert not word.startswith("configs/") or (ROOT / word).is_file(), word


def check_python(words: list[str]) -> None:
    program, *rest = words[1:] if words[0] == "-m" else words
    if words[0] == "-m":
        assert importlib.util.find_spec(program), f"no module {program}"
    else:
        assert (ROOT / program).is_file(), f"no file {program}"
    if "--help" in rest:
        rest = rest[: rest.index("--help")]
    if program == "sample.py" and rest:
        options = sample.parser().parse_args(rest)
        assert all((ROOT / path).exists() for path in vars(options).get("references", []))
    elif program == "evaluate.py" and len(rest) > 1:
        evaluate.parser(rest[0]).parse_args(rest)
    elif program == "data_gen" and rest:
        options = data_gen_command._parser().parse_args(rest)
        rest = rest[1:]
    if program in (*SCHEMAS, "data_gen") and "--config" in rest:
        file, *overrides = rest[rest.index("--config") + 1 :]
        overrides = [word for word in overrides if not word.startswith("--")]
        if "/" in file and program == "data_gen":  # others are the reader's own
            load_config(ROOT / file, overrides)
        elif "/" in file:
            load(SCHEMAS[program], ROOT / file, overrides)


def test_the_checks_of_commands_see_mistakes(tmp_path):
    for wrong in (
        "make nothing",
        "python nothing.py",
        "python -m jedi.nothing",
        "python sample.py --promt x",
        "python train.py --config configs/train/tiny.yaml optimizer.speed=1",
        "python -m data_gen run --config configs/data_gen/nothing.yaml",
        "sbatch slurm/nothing.sbatch",
    ):
        page = tmp_path / "page.md"
        page.write_text(f"```bash\n{wrong}\n```\nand [a](https://x.org)")
        with pytest.raises(pytest.fail.Exception):
            test_commands_can_be_given(page)
    assert sum(len(commands(page)) for page in PAGES) > 40


@pytest.mark.slow
def test_the_site_is_built_strictly(tmp_path, root, python):
    """A broken link, a missing page or a docstring that cannot be read is an error. Nothing is fetched by a browser."""
    command = [python, "-m", "mkdocs", "build", "--strict"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([*command, "--site-dir", tmp_path], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    pages = {file.relative_to(tmp_path).as_posix(): file.read_text() for file in tmp_path.rglob("*.html")}
    assert "JointAttnProcessor" in pages["api/method.html"] and "optimizer" in pages["api/training.html"]
    assert pages["method.html"].count('<div class="equation">') == 7 and "\\tag" not in pages["method.html"]
    assert "Source" in pages["api/data_gen.html"] and "heldout.png" in pages["models/jedi-tiny/MODEL_CARD.html"]
    fetched = re.compile(r'<(?:script|img)[^>]*src="https?:[^"]*|<link[^>]*stylesheet[^>]*https?:[^"]*')
    assert not {name: found[0] for name, page in pages.items() if (found := fetched.search(page))}


@pytest.mark.slow
def test_the_notebook_runs(root):
    """From the first cell to the last, in fewer steps; what it stores is small."""
    import nbformat
    from nbclient import NotebookClient

    file = root / "docs" / "notebooks" / "sampling.ipynb"
    notebook = nbformat.read(file, as_version=4)
    stored = [sum("image/png" in x.get("data", {}) for x in cell.get("outputs", [])) for cell in notebook.cells]
    for cell in notebook.cells:
        cell.get("outputs", []).clear()
        cell.source = cell.source.replace("steps = 12", "steps = 2")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(root)}}).execute()
    outputs = [cell.get("outputs", []) for cell in notebook.cells]
    assert stored == [sum("image/png" in x.get("data", {}) for x in of_cell) for of_cell in outputs]
    assert sum(stored) == 3
    said = "".join(x.get("text", "") for of_cell in outputs for x in of_cell)
    assert "2 references" in said and int(re.search(r"difference of a pixel: (\d+)", said)[1]) <= 1
    assert file.stat().st_size < 300_000


def test_the_modules_of_the_reference_exist(root):
    """What mkdocs would refuse, in a moment."""
    named = [
        name for page in root.glob("docs/api/*.md") for name in re.findall(r"^::: ([\w.]+)", page.read_text(), re.M)
    ]
    assert len(named) > 30
    assert not [name for name in named if importlib.util.find_spec(name) is None]
