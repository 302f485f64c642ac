"""slurm/evaluate.sbatch: directives, the command of a plain job and of an array's task, and what it refuses."""

import subprocess
from pathlib import Path

import pytest

import evaluate
from jedi.io.command_line import part_of
from tests.test_slurm import cluster, directives, submit  # noqa: F401  (a fixture)

SCRIPT = "evaluate.sbatch"
OPTIONS = ("dreambench", "--data", "my data", "--out", "o")


def array(first: int, last: int, task: int, step: int = 1) -> dict[str, str]:
    """What Slurm sets in a task of an array."""
    values = {"ID": task, "MIN": first, "MAX": last, "STEP": step, "COUNT": len(range(first, last + 1, step))}
    return {f"SLURM_ARRAY_TASK_{key}": str(value) for key, value in values.items()}


def called(cluster) -> str:  # noqa: F811
    return Path(cluster["SLURM_SUBMIT_DIR"], "called").read_text().strip()


def test_syntax_and_directives(root):
    path = root / "slurm" / SCRIPT
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=True).stderr == ""
    found = directives(path)
    assert {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "requeue"} <= set(found)
    assert found["job-name"] not in ("bash", "interactive") and found["open-mode"] == "append"
    lines = path.read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])


def test_a_plain_job(root, cluster):  # noqa: F811
    done = submit(root, cluster, SCRIPT, *OPTIONS)
    assert called(cluster) == ".venv/bin/python evaluate.py dreambench --data my data --out o"
    environment = Path(cluster["SLURM_SUBMIT_DIR"], "environment").read_text().splitlines()
    assert {"SRUN_CPUS_PER_TASK=16", "OMP_NUM_THREADS=16"} <= set(environment)
    assert done.returncode == 7  # srun's


@pytest.mark.parametrize(
    ("task", "part"),
    [(array(0, 7, 0), "0/8"), (array(0, 7, 7), "7/8"), (array(1, 4, 3), "2/4"), (array(0, 9, 6, 3), "2/4")],
)
def test_a_task_of_an_array_makes_its_part(root, cluster, task, part):  # noqa: F811
    assert submit(root, {**cluster, **task}, SCRIPT, *OPTIONS).returncode == 7
    assert called(cluster).endswith(f"--out o --part {part}")
    assert part_of(part) == tuple(map(int, part.split("/")))


def test_the_tasks_of_an_array_make_every_part_once(root, cluster):  # noqa: F811
    parts = []
    for task in range(2, 7):
        submit(root, {**cluster, **array(2, 6, task)}, SCRIPT, *OPTIONS)
        parts.append(called(cluster).rpartition(" ")[2])
    assert parts == [f"{i}/5" for i in range(5)]


@pytest.mark.parametrize(
    ("changed", "arguments", "message"),
    [
        ({}, (), "usage: sbatch slurm/evaluate.sbatch"),
        ({}, ("generate",), "found 'generate'"),
        (array(0, 3, 1), ("toy", "--out", "o"), "only dreambench works in parts"),
        # --array=0,1,5: Slurm counts three tasks from 0 to 5.
        ({**array(0, 5, 1), "SLURM_ARRAY_TASK_COUNT": "3"}, OPTIONS, "--array with gaps"),
        ({"VENV": "nowhere"}, OPTIONS, "no nowhere/bin/python"),
    ],
)
def test_refusals(root, cluster, changed, arguments, message):  # noqa: F811
    done = submit(root, {**cluster, **changed}, SCRIPT, *arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and message in done.stderr
    assert not Path(cluster["SLURM_SUBMIT_DIR"], "called").exists()


def test_the_script_knows_the_subcommands(root):
    assert f"    {' | '.join(evaluate.COMMANDS)}) ;;" in (root / "slurm" / SCRIPT).read_text()
