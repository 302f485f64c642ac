"""The rules about imports of docs/architecture.md, read from the sources, and what an import or `--help` may cost."""

import ast
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.paths import ROOT

STDLIB = sys.stdlib_module_names
CORE = (
    "attention",
    "diffusion",
    "conditioning",
    "guidance",
    "loss",
    "rng",
    "text",
    "io.registry",
    "errors",
    "io.ranges",
)
LIGHTNING = ("module", "data_module", "trainer", "callbacks", "signals", "checkpoint_io", "run")
# IPython's completion library shares our import name: a module of ours of such a name would hide its own.
OTHER_LIBRARY = {
    "api", "cache", "common", "debug", "file_io", "inference", "parser_utils", "plugins", "settings",
    "third_party", "utils", "_compatibility",
}  # fmt: skip


@cache
def imports(file: Path) -> frozenset[str]:
    """Dotted names of the modules that `file` imports, at any depth; relative ones are made absolute."""
    package = file.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *(node.module.split(".") if node.module else ())))
            # `from jedi import x` may name a module: both are recorded.
            found.update((module, *(f"{module}.{alias.name}" for alias in node.names)))
    return frozenset(found)


def sources() -> list[Path]:
    """The product's own files: not the tests, not the benchmarks."""
    return [
        *ROOT.glob("*.py"),
        *(file for folder in ("jedi", "data_gen", "jedi_toy") for file in (ROOT / folder).rglob("*.py")),
    ]


def users(library: str) -> set[str]:
    """Files (relative, without .py) that import `library` or a part of it."""
    return {
        file.relative_to(ROOT).with_suffix("").as_posix()
        for file in sources()
        if any(name == library or name.startswith(f"{library}.") for name in imports(file))
    }


def test_the_import_reader_sees_all_forms(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "jedi" / "x.py"
    file.parent.mkdir()
    file.write_text("import a.b\ndef f():\n    from c import d\nfrom . import e\nfrom .g import h\n")
    assert imports(file) == {"a.b", "c", "c.d", "jedi", "jedi.e", "jedi.g", "jedi.g.h"}


def opens_images(source: str) -> bool:
    """Whether a module uses PIL's `open`, by whatever name."""
    tree = ast.parse(source)
    opened = {"Image.open", "PIL.Image.open"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "PIL":
            opened.update(f"{alias.asname}.open" for alias in node.names if alias.name == "Image")
        elif isinstance(node, ast.ImportFrom) and node.module == "PIL.Image":
            opened.update(alias.asname or alias.name for alias in node.names if alias.name == "open")
        elif isinstance(node, ast.Import):
            opened.update(f"{alias.asname}.open" for alias in node.names if alias.name == "PIL.Image")
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) or getattr(node, "attr", "") == "open"]
    return any(ast.unparse(node) in opened for node in uses)


def test_one_function_opens_every_image():
    """Formats, limits, rotation and colours are decided in `jedi.io.images.open_image`; EPS would run Ghostscript."""
    for text in ("from PIL.Image import open as o\no", "from PIL import Image as I\nI.open(x)", "map(Image.open, x)"):
        assert opens_images(text), text
    assert not opens_images("from PIL import Image as I\nopen(x)\nI.new('L', (1, 1))")
    files = [*sources(), *(file for folder in ("benchmarks", "examples") for file in (ROOT / folder).rglob("*.py"))]
    found = [file.relative_to(ROOT).as_posix() for file in files if opens_images(file.read_text(encoding="utf-8"))]
    assert found == ["jedi/io/images.py"]


def renames(source: str) -> bool:
    """Whether a module gives a file another name: `Path.replace` has one argument, `str.replace` two."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return any(
        (
            isinstance(call.func, ast.Attribute)
            and (call.func.attr, len(call.args) + len(call.keywords)) in {("replace", 1), ("rename", 1), ("renames", 2)}
        )
        or ast.unparse(call.func) in {"os.replace", "os.rename", "shutil.move"}
        for call in calls
    )


def test_one_piece_makes_files_appear_whole():
    """`jedi.io.files.atomic` syncs, clears what killed processes left, and names the place when the disk is full."""
    for text in ("a.replace(b)", "p.with_name('x').rename(target=q)", "os.replace(a, b)", "shutil.move(a, b)"):
        assert renames(text), text
    assert not renames("'a'.replace('b', 'c')\nreplace(x, y=1)")
    found = [file.relative_to(ROOT).as_posix() for file in sources() if renames(file.read_text(encoding="utf-8"))]
    assert found == ["jedi/io/files.py"]


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_torch_and_einops_only(module):
    allowed_ours = {"jedi", "jedi.io", *(f"jedi.{name}" for name in CORE)}
    for name in imports(ROOT / "jedi" / f"{module.replace('.', '/')}.py"):
        top = name.split(".")[0]
        optional = module == "attention" and top == "xformers"  # a back end, behind a trial call
        ours = name in allowed_ours or name.rpartition(".")[0] in allowed_ours - {"jedi", "jedi.io"}
        fits = top in STDLIB or top in ("torch", "einops") or ours or optional
        assert fits, f"jedi.{module} imports {name}"


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("lightning", {f"jedi/training/{x}" for x in LIGHTNING} | {"train"}),
        ("pytorch_lightning", set()),
        ("webdataset", {"jedi/streaming"}),
        ("omegaconf", {"jedi/io/config"}),
        ("xformers", {"jedi/attention"}),
        ("wandb", {"jedi/training/run"}),
        ("matplotlib", {"jedi/report/charts"}),
        ("jinja2", {"jedi/report/page"}),
    ],
)
def test_a_library_stays_in_its_place(library, allowed):
    assert users(library) <= allowed


ROOMS = ("jedi", "data_gen", "jedi_toy")
"""Each may import from itself and from those before it."""


def graph() -> dict[str, set[str]]:
    """Each module of the rooms -> the modules of theirs that it imports, wherever in the file and for whatever use."""
    modules = {}
    for file in sources():
        name = file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        if name.split(".")[0] in ROOMS:
            modules[name] = file

    def imported(file: Path) -> set[str]:
        found = {name for name in imports(file) if name in modules}
        # `from package import module` asks the package for nothing of its own.
        return {name for name in found if not any(other.rpartition(".")[0] == name for other in found)}

    return {name: imported(file) - {name} for name, file in modules.items()}


def circle_through(module: str, edges: dict[str, set[str]]) -> set[str]:
    """The modules that it reaches and that reach it, itself among them."""

    def reached(start: str) -> set[str]:
        seen, waiting = set(), [start]
        while waiting:
            for other in edges[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    return {other for other in reached(module) if module in reached(other)}


def test_no_module_is_in_a_circle_of_imports():
    """Imports for type annotations and inside of functions count."""
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert circle_through("b", edges) == {"b", "c"} and not circle_through("a", edges)
    edges = graph()
    assert "data_gen.run" in edges["data_gen.__main__"]
    assert not [sorted(circle) for module in edges if (circle := circle_through(module, edges))]


def test_dependencies_point_one_way():
    for module, imported in graph().items():
        allowed = ROOMS[: ROOMS.index(module.split(".")[0]) + 1]
        assert {name.split(".")[0] for name in imported} <= set(allowed), module


def test_the_data_engine_knows_no_evaluation():
    assert not {user for user in users("jedi.evaluation") if user.startswith("data_gen/")}


def test_nothing_imports_the_tests_or_the_front_ends():
    for module in ("tests", "benchmarks", "train", "sample", "evaluate", "setup"):
        assert not users(module), module


def test_no_module_hides_one_of_the_other_jedi_library():
    ours = {path.stem for path in (ROOT / "jedi").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {"attention", "pipeline"} <= ours
    assert not ours & OTHER_LIBRARY


def test_one_class_has_one_name():
    """No public class name stands twice: whoever reads it knows which one is meant."""
    found: dict[str, list[str]] = {}
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(file.relative_to(ROOT).as_posix())
    assert found["JointUNet"] == ["jedi/unet.py"]
    assert not {name: files for name, files in found.items() if len(files) > 1}


def test_modules_stay_short():
    lengths = {file.relative_to(ROOT).as_posix(): len(file.read_text().splitlines()) for file in sources()}
    assert lengths["jedi/attention.py"] > 100
    assert not {name: lines for name, lines in lengths.items() if lines > 500}


def loaded_by(python: str, environment: dict[str, str], code: str) -> set[str]:
    """Top-level modules in sys.modules after `code` has run in a new interpreter."""
    done = subprocess.run(
        [python, "-c", f"{code}\nimport sys\nprint('LOADED', *sys.modules)"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name.split(".")[0] for name in done.stdout.split("LOADED")[1].split()}


@pytest.mark.parametrize("code", ["import jedi", "import jedi.io.config", "import data_gen"])
def test_light_imports_load_no_torch(python, environment, code):
    heavy = {"torch", "diffusers", "transformers", "lightning", "numpy", "parso"}
    if code == "import jedi":
        heavy.add("omegaconf")
    assert not loaded_by(python, environment, code) & heavy


@pytest.mark.slow
def test_public_names_are_loaded_when_used(python, environment):
    modules = loaded_by(python, environment, "import jedi; jedi.ReferenceCache")
    assert "torch" in modules
    assert "lightning" not in modules
    import jedi

    for name in jedi.__all__:
        assert getattr(jedi, name) is not None


@pytest.mark.parametrize(
    "command",
    [
        "sample.py",
        "train.py",
        "evaluate.py dreambench",
        "-m data_gen",
        "-m jedi.training.export",
        "-m jedi_toy.tiny_base",
        "-m jedi_toy.encoder",
    ],
)
def test_help_answers_within_a_second(python, environment, command):
    """A second of the processor: a busy machine is no reason to fail."""
    arguments = [python, *command.split(), "--help"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_sample_help_loads_no_torch(python, environment):
    code = "import runpy, sys, contextlib\nsys.argv = ['sample.py', '--help']\n"
    code += "with contextlib.suppress(SystemExit): runpy.run_path('sample.py', run_name='__main__')"
    assert not loaded_by(python, environment, code) & {"torch", "diffusers", "transformers", "lightning"}


@pytest.mark.parametrize("file", sources(), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_texts_have_an_encoding(file):
    """Or they are written in the language of the machine, and read in that of another."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("read_text", "write_text"):
            assert any(x.arg == "encoding" for x in node.keywords), f"{file}, line {node.lineno}"
