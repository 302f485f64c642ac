"""The wheel and the editable install, where IPython's library of that import name is installed too."""

import importlib.metadata
import os
import shutil
import site
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

OTHER = next(Path(p) / "jedi" for p in site.getsitepackages() if (Path(p) / "jedi" / "api").is_dir())
PROBE = """
import data_gen, jedi, jedi.api.classes
print(jedi.__file__)
print(jedi.Interpreter("import json; json.lo", [{}]).complete()[0].name)
from jedi import settings
"""


@pytest.fixture
def checkout(tmp_path, root) -> Path:
    """What a build needs, copied, so that no build leftovers end up in the real checkout."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, folder)
    for name in ("jedi", "data_gen"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def room(tmp_path) -> tuple[Path, Path]:
    """(interpreter, site-packages) of an empty environment with the other `jedi` library and nothing else."""
    venv.create(tmp_path / "room", symlinks=True)
    packages = next((tmp_path / "room" / "lib").glob("python3*")) / "site-packages"
    (packages / "jedi").symlink_to(OTHER)
    (packages / "parso").symlink_to(OTHER.parent / "parso")
    return tmp_path / "room" / "bin" / "python", packages


def install(python: str, checkout: Path, packages: Path, kind: str) -> None:
    """Builds as pip would (`kind` is "wheel" or "editable") and unpacks the result into site-packages."""
    build = f"from setuptools import build_meta; build_meta.build_{kind}('dist')"
    (checkout / "dist").mkdir(exist_ok=True)
    done = subprocess.run([python, "-c", build], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = checkout.glob("dist/*editable*.whl" if kind == "editable" else "dist/*none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)


def probe(room_python: Path, folder: Path) -> list[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(room_python), "-c", PROBE], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_wheel_beside_the_other_library(python, room, checkout, tmp_path):
    room_python, packages = room
    before = (OTHER / "__init__.py").read_bytes()
    install(python, checkout, packages, "wheel")
    ours = packages / "jedi_diffusion_path" / "jedi"
    assert probe(room_python, tmp_path) == [str(ours / "__init__.py"), "load"]
    assert (OTHER / "__init__.py").read_bytes() == before
    assert (packages / "jedi").is_symlink()
    for module in [*checkout.glob("jedi/**/*.py"), *checkout.glob("jedi/**/*.html"), checkout / "jedi" / "py.typed"]:
        assert (ours / module.relative_to(checkout / "jedi")).is_file()


@pytest.mark.slow
def test_editable_install_from_another_folder(python, room, checkout, tmp_path):
    room_python, packages = room
    install(python, checkout, packages, "editable")
    assert probe(room_python, tmp_path) == [str(checkout / "jedi" / "__init__.py"), "load"]


def test_version_is_the_distribution_s():
    """Catches an environment whose install is older than the checkout."""
    import jedi

    assert importlib.metadata.version("jedi-diffusion") == jedi.__version__
