"""The Slurm scripts: they parse, ask for what Lightning and Slurm need, and pass exit codes on."""

import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_gen import run
from data_gen.config import DataConfig
from data_gen.plan import Parts
from jedi.io.config import load
from jedi.training.config import TrainConfig

SCRIPTS = ("train.sbatch", "data_gen.sbatch")


def directives(script: Path) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?", script.read_text(), re.M))


@pytest.fixture
def cluster(tmp_path, root) -> dict[str, str]:
    """A folder with stand-ins for srun, scontrol and the interpreter; srun's arguments land in `called`."""
    programs = {
        "srun": 'echo "$@" > called\nenv > environment\nexit 7\n',
        "scontrol": "echo localhost\necho second\n",
        ".venv/bin/python": "exit 1\n",
    }
    for name, body in programs.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/bash\n{body}")
        file.chmod(0o755)
    (tmp_path / "my.yaml").touch()
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "localhost,second", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4",
        "SLURM_CPUS_PER_TASK": "16",
    }  # fmt: skip


def submit(root, cluster, script, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(root / "slurm" / script), *arguments],
        cwd=cluster["SLURM_SUBMIT_DIR"], env=cluster, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_syntax_and_directives(root, script):
    path = root / "slurm" / script
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=True).stderr == ""
    found = directives(path)
    assert {"job-name", "nodes", "ntasks-per-node", "cpus-per-task", "time", "requeue"} <= set(found)
    assert found["job-name"] not in ("bash", "interactive")  # these switch Lightning's Slurm support off
    assert found["open-mode"] == "append"  # a requeued job must not erase its log
    # Slurm stops reading directives at the first command.
    lines = path.read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])


def test_training_asks_for_the_signal_on_all_steps(root):
    found = directives(root / "slurm" / "train.sbatch")
    assert found["signal"] == "USR1@120"  # not "B:USR1": the training processes must get it
    assert found["gpus-per-node"] == found["ntasks-per-node"]


def test_training_command(root, cluster):
    done = submit(root, cluster, "train.sbatch", "my.yaml", "seed=3", "name=a b")
    called = Path(cluster["SLURM_SUBMIT_DIR"], "called").read_text().strip()
    assert called == (
        "-K1 .venv/bin/python train.py --config my.yaml hardware.nodes=2 hardware.devices=4 seed=3 name=a b"
    )
    environment = Path(cluster["SLURM_SUBMIT_DIR"], "environment").read_text().splitlines()
    assert {"MASTER_ADDR=localhost", "SRUN_CPUS_PER_TASK=16"} <= set(environment)
    assert done.returncode == 7  # srun's


def test_the_keys_exist():
    """The settings that the scripts pass on are ones that the programs know."""
    train = ["base=b", "out=o", "data.path=d", "hardware.nodes=2", "hardware.devices=4"]
    config = load(TrainConfig, None, train)
    assert (config.hardware.nodes, config.hardware.devices) == (2, "4")


@pytest.mark.parametrize("verb", ["prompts", "plan", "run", "finish"])
def test_data_command(root, cluster, verb):
    done = submit(root, cluster, "data_gen.sbatch", verb, "my.yaml", "seed=3")
    called = Path(cluster["SLURM_SUBMIT_DIR"], "called").read_text().strip()
    assert called == f".venv/bin/python -m data_gen {verb} --config my.yaml seed=3"
    environment = Path(cluster["SLURM_SUBMIT_DIR"], "environment").read_text().splitlines()
    assert {"SRUN_CPUS_PER_TASK=16", "OMP_NUM_THREADS=16"} <= set(environment)
    assert done.returncode == 7


@pytest.mark.parametrize(("first", "last", "task", "part"), [(0, 63, 5, "5/64"), (1, 4, 4, "3/4"), (3, 90, 90, "0/3")])
def test_a_task_of_a_data_array_begins_at_its_part(root, cluster, first, last, task, part):
    count = part.partition("/")[2]
    values = {"ID": str(task), "MIN": str(first), "MAX": str(last), "COUNT": count}
    array = {f"SLURM_ARRAY_TASK_{key}": value for key, value in values.items()}
    submit(root, cluster | array, "data_gen.sbatch", "run", "my.yaml", "seed=3")
    called = Path(cluster["SLURM_SUBMIT_DIR"], "called").read_text().strip()
    assert called.endswith(f"data_gen run --config my.yaml --part {part} seed=3")
    refused = submit(root, cluster | array, "data_gen.sbatch", "finish", "my.yaml")
    assert refused.returncode == 2 and "only run works in parts" in refused.stderr


def test_a_data_task_starts_no_more_processes_than_it_asked_for_cores(monkeypatch):
    """Not all clusters bind a task to its cores."""
    config, drawn = DataConfig(out="x", source="folder"), Parts(SimpleNamespace(uses_model=False), ())
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert run._devices(config, drawn, units=100) == ["cpu"] * 8
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert run._devices(config, drawn, units=100) == ["cpu"] * 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    assert run._devices(config, drawn, units=100) == ["cpu"] * 8


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("train.sbatch", []),
        ("train.sbatch", ["absent.yaml"]),
        ("data_gen.sbatch", []),
        ("data_gen.sbatch", ["my.yaml"]),
        ("data_gen.sbatch", ["run"]),
        ("data_gen.sbatch", ["run", "absent.yaml"]),
    ],
)
def test_a_missing_config_is_refused(root, cluster, script, arguments):
    done = submit(root, cluster, script, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: usage: sbatch slurm/")
    assert not Path(cluster["SLURM_SUBMIT_DIR"], "called").exists()


def test_a_name_that_does_not_resolve_is_refused(root, cluster):
    Path(cluster["SLURM_SUBMIT_DIR"], "scontrol").write_text("#!/bin/bash\necho no-such-node.invalid\n")
    done = submit(root, cluster, "train.sbatch", "my.yaml")
    assert done.returncode == 2
    assert "'no-such-node.invalid', does not resolve" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_environment_is_refused(root, cluster, script):
    Path(cluster["SLURM_SUBMIT_DIR"], ".venv/bin/python").unlink()
    done = submit(root, cluster, script, *(["run"] if script == "data_gen.sbatch" else []), "my.yaml")
    assert done.returncode == 2
    assert "no .venv/bin/python" in done.stderr
