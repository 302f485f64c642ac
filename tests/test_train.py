"""train.py end to end: exact resuming, one gradient for any number of processes, signals, clear errors."""

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

import train
from jedi.conditioning import CONDITIONING_POLICIES
from jedi.diffusion import LOSS_WEIGHTINGS
from jedi.io.files import locked
from jedi.training import callbacks, checkpoints, latents, signals
from jedi.training.data_module import JointData
from jedi.training.latents import LatentCache
from jedi.training.module import JointTraining
from tests import extensions, forked, tiny
from tests.conftest import write_shard

STEPS = 6


@pytest.fixture
def recipe(tmp_path, tiny_base, shards):
    """A recipe for the tiny base; the run lies in tmp_path/run."""
    return write_recipe(tmp_path, tiny_base, shards)


def write_recipe(folder, base, shards):
    values = {
        "base": str(base),
        "out": str(folder / "run"),
        "data": {"path": str(shards), "workers": 0, "latents_folder": str(folder / "latents")},
        "seed": 5,
        "max_steps": STEPS,
        "batch_size": 4,
        "checkpoints": {"every_steps": 3},
        "optimizer": {"lr": 1e-3, "warmup_steps": 2, "schedule": "cosine"},
        "ema": {"decay": 0.9},
        "validation": {"every_steps": 0},
        "samples": {"every_steps": 0},
        "log": {"loggers": []},
        "hardware": {"accelerator": "cpu", "precision": "32-true"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def checkpoint(run, name="last"):
    return checkpoints.load(checkpoints.find(run, name))


def state(run) -> dict[str, torch.Tensor]:
    """Weights, averaged weights, AdamW's moments and the count of images, by name."""
    saved = checkpoint(run)
    tensors = dict(saved["state_dict"])
    for i, moments in saved["optimizer_states"][0]["state"].items():
        tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    tensors["images"] = torch.tensor(saved["callbacks"]["Progress"]["images"])
    tensors["lr"] = torch.tensor([group["lr"] for group in saved["optimizer_states"][0]["param_groups"]])
    return tensors


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]):
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert not different


EXACT = [
    "micro_batch_size=2", "data.workers=2", "extensions=[tests.extensions]",
    "conditioning.policy=until_signal",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_base, shards):
    """The state of six steps in one go: accumulation, two workers, sets of 3 and of 4, past an epoch."""
    folder = tmp_path_factory.mktemp("whole")
    assert train.main(["--config", str(write_recipe(folder, tiny_base, shards)), *EXACT]) == 0
    return state(folder / "run")


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed_is_the_same_bit_for_bit(recipe, whole, tmp_path, monkeypatch, capsys):
    command = ["--config", str(recipe), *EXACT]
    with monkeypatch.context() as kill:
        kill.setenv(extensions.STEP, "4")
        kill.setenv(extensions.SIGNAL, "SIGKILL")
        assert forked.run(lambda: train.main(command))[0] == -9
    run = tmp_path / "run"
    assert checkpoint(run)["jedi"]["step"] == 3 and not (run / "done").exists()

    assert train.main(command) == 0
    assert_equal(state(run), whole)
    assert json.loads((run / "done").read_text()) == {"step": STEPS}
    # the averaged weights are an average, the frozen parts are nowhere
    assert any(
        not torch.equal(whole[name], whole[f"ema.module.{name[5:]}"])
        for name in whole
        if "conv_in" in name and name.startswith("unet.")
    )
    assert {name.split(".")[0] for name in checkpoint(run)["state_dict"]} == {"unet", "ema"}

    assert train.main(command) == 0  # nothing is left to be done
    assert "is complete" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 0)])
def test_a_signal_saves_and_stops_and_the_same_command_goes_on(recipe, whole, tmp_path, monkeypatch, name, status):
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.log\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv(extensions.STEP, "1")
    monkeypatch.setenv(extensions.SIGNAL, name)
    command = ["--config", str(recipe), *EXACT]
    assert train.main(command) == status
    assert checkpoint(tmp_path / "run")["jedi"]["step"] == 2
    requeued = tmp_path / "scontrol.log"
    assert requeued.exists() == (name == "SIGUSR1")  # a cancelled job (SIGTERM) must not come back
    if requeued.exists():
        assert requeued.read_text() == "requeue 17\n"
    assert {number: signal.getsignal(number) for number in handlers} == handlers

    if name == "SIGTERM":  # the others save in the same way
        assert train.main(command) == 0
        assert_equal(state(tmp_path / "run"), whole)


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 0)])
def test_a_signal_before_the_first_step_ends_the_start(recipe, tmp_path, monkeypatch, name, status):
    requeued, dataloader = [], JointData.train_dataloader
    monkeypatch.setattr(signals, "requeue", lambda environment: requeued.append(name))
    monkeypatch.setattr(
        JointData, "train_dataloader", lambda self: os.kill(os.getpid(), signal.Signals[name]) or dataloader(self)
    )
    with pytest.raises(SystemExit) as stopped:
        train.main(["--config", str(recipe)])
    assert stopped.value.code == status and requeued == ["SIGUSR1"] * (name == "SIGUSR1")
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def interrupting(monkeypatch, name: str, batch: int) -> list[int]:
    """Has this process send itself a signal before that batch of images is encoded (0 is the first), in parts of
    seven images. Returns the sizes of the batches, which grow as they are encoded."""
    encoded, encode = [], latents.encode_pixels

    def encode_pixels(vae, images):
        if len(encoded) == batch:
            os.kill(os.getpid(), signal.Signals[name])
        encoded.append(len(images))
        return encode(vae, images)

    monkeypatch.setattr(latents, "PART_PIXELS", 7 * tiny.PIXELS**2)
    monkeypatch.setattr(latents, "encode_pixels", encode_pixels)
    return encoded


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 0)])
def test_a_signal_while_latents_are_encoded_keeps_the_parts(recipe, tmp_path, monkeypatch, name, status):
    requeued, command = [], ["--config", str(recipe), "data.cache_latents=true", "max_steps=1"]
    monkeypatch.setattr(signals, "requeue", lambda environment: requeued.append(name))
    with monkeypatch.context() as patch:
        encoded = interrupting(patch, name, batch=3)
        with pytest.raises(SystemExit) as stopped:
            train.main(command)
        assert stopped.value.code == status and requeued == ["SIGUSR1"] * (name == "SIGUSR1") and sum(encoded) == 21
    parts = list((tmp_path / "latents").glob("*/*.safetensors"))
    assert len(parts) == 3
    if name == "SIGUSR1":
        encoded = interrupting(monkeypatch, name, batch=-1)
        assert train.main(command) == 0
        assert sum(encoded) == 70 - 21


def test_a_job_that_encoded_no_part_is_not_put_back_into_the_queue(recipe, tmp_path, monkeypatch):
    """Else it would do so for ever. A launch that finds parts of earlier ones has to finish one more."""
    requeued, command = [], ["--config", str(recipe), "data.cache_latents=true", "max_steps=1"]
    monkeypatch.setattr(signals, "requeue", lambda environment: requeued.append(1))
    for batch in (0, 2, 0):
        with monkeypatch.context() as patch:
            interrupting(patch, "SIGUSR1", batch)
            with pytest.raises(SystemExit) as stopped:
                train.main(command)
        if batch:
            assert stopped.value.code == 0 and requeued == [1]
        else:
            assert "not put back into the queue" in stopped.value.code  # printed; Python ends with 1
    assert requeued == [1] and len(list((tmp_path / "latents").glob("*/*.safetensors"))) == 2


@pytest.mark.slow
def test_all_processes_encode_and_the_gradients_are_those_without_a_cache(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "PART_PIXELS", 7 * tiny.PIXELS**2)
    encode, there, makers = LatentCache._encoded, tmp_path / "there", tmp_path / "makers"
    there.mkdir()
    makers.mkdir()

    def together(cache, *args):
        (there / str(os.getpid())).touch()
        deadline = time.monotonic() + 60
        while len(list(there.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        made = encode(cache, *args)
        (makers / f"{os.getpid()}-{sum(1 for _ in makers.iterdir())}").touch()
        return made

    monkeypatch.setattr(LatentCache, "_encoded", together)
    command = ["--config", str(recipe), "max_steps=1", "optimizer.clip_grad_norm=0"]
    two = ["hardware.devices=2", "hardware.strategy=ddp_fork", "data.cache_latents=true"]
    found = {}
    for name, options in (("cached", two), ("encoded", [])):
        assert train.main([*command, *options, f"out={tmp_path / name}"]) == 0
        found[name] = torch.cat([value.flatten() for value in gradients(tmp_path / name).values()])
    made = [path.name.split("-")[0] for path in makers.iterdir()]
    assert len(made) == 10 and len(set(made)) == 2
    difference = (found["cached"] - found["encoded"]).norm() / found["encoded"].norm()
    assert 0 < difference < 2e-3  # cached latents are rounded to half precision


@pytest.mark.slow
def test_damaged_latents_stop_the_run_with_their_name(recipe, tmp_path, capsys):
    command = ["--config", str(recipe), "data.cache_latents=true", "data.workers=1"]
    assert train.main([*command, "max_steps=1"]) == 0
    part = sorted((tmp_path / "latents").glob("*/*.safetensors"))[0]
    data = part.read_bytes()
    part.write_bytes(data[:-2000] + bytes(2000))  # the latents themselves: found when they are read
    assert train.main(command) == 2
    assert f"{part}: damaged" in capsys.readouterr().err.splitlines()[-1]
    part.write_bytes(data[:-1])
    assert train.main(command) == 2
    assert f"{part}: damaged" in capsys.readouterr().err.splitlines()[-1]


def gradients(run) -> dict[str, torch.Tensor]:
    """After one step of AdamW its first moment is the gradient times 1 - beta1."""
    return {name: value / 0.1 for name, value in state(run).items() if name.endswith("exp_avg")}


@pytest.mark.slow
@pytest.mark.parametrize("mutual", [0, 1])
def test_processes_and_accumulation_give_the_gradients_of_the_whole_batch(recipe, tmp_path, mutual):
    shared = ["max_steps=1", "optimizer.clip_grad_norm=0", f"conditioning.mutual_prob={mutual}", "batch_size=8"]
    shared += ["conditioning.reference_weights=[0,1]", "conditioning.partly_given_prob=0.5"]
    layouts = {
        "one": [],
        "processes": ["hardware.devices=2", "hardware.strategy=ddp_fork"],
        "both": ["hardware.devices=2", "hardware.strategy=ddp_fork", "micro_batch_size=2"],
    }
    found = {}
    for name, options in layouts.items():
        run = tmp_path / name
        assert train.main(["--config", str(recipe), *shared, *options, f"out={run}"]) == 0
        found[name] = gradients(run)
    assert max(value.abs().max() for value in found["one"].values()) > 1e-3
    for name in ("processes", "both"):
        for parameter, expected in found["one"].items():
            torch.testing.assert_close(
                found[name][parameter], expected, rtol=1e-3, atol=1e-6, msg=f"{name} {parameter}"
            )


@pytest.mark.slow
def test_a_run_validates_samples_logs_and_keeps_the_best(recipe, tmp_path, capsys):
    options = ["validation.every_steps=3", "validation.sets=4", "validation.bins=2", "samples.every_steps=6"]
    options += ["samples.steps=2", "samples.subjects=2", "log.loggers=[csv,tensorboard]", "log.every_steps=2"]
    options += ["data.cache_latents=true", "network.gradient_checkpointing=true"]
    assert train.main(["--config", str(recipe), *options]) == 0
    run = tmp_path / "run"
    assert [path.name for path in (run / "samples").iterdir()] == ["step-00000006.png"]
    assert len(list((tmp_path / "latents").glob("*/*.safetensors"))) == 2
    assert list((run / "logs").glob("events.out.tfevents*"))
    rows = (run / "logs" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    columns = rows[0].split(",")
    assert {
        "train/loss",
        "train/lr",
        "images",
        "images_per_second",
        "gain/wrong",
        "gain/none",
        "gain/wrong/bin1",
    } <= set(columns)
    assert {"heldout/loss", "heldout/loss/one_way", "heldout/loss/mutual/bin0"} <= set(columns)
    images = [row.split(",")[columns.index("images")] for row in rows[1:]]
    assert [int(x) for x in images if x][-1] == int(state(run)["images"]) >= 6 * 4 * 3
    best = checkpoints.record(checkpoints.find(run, "best"))["loss"]
    losses = [row.split(",")[columns.index("heldout/loss")] for row in rows[1:]]
    assert best == pytest.approx(min(float(x) for x in losses if x))
    assert "reference gain over wrong" in capsys.readouterr().err
    assert yaml.safe_load((run / "config.yaml").read_text())["validation"]["sets"] == 4


@pytest.mark.slow
def test_the_loss_falls(recipe, tmp_path):
    run, options = tmp_path / "run", ["log.loggers=[csv]", "log.every_steps=8", "checkpoints.every_steps=100"]
    options += ["max_steps=24", "data.cache_latents=true", "optimizer.lr=3e-3", "conditioning.mutual_prob=0"]
    assert train.main(["--config", str(recipe), *options]) == 0
    rows = [row.split(",") for row in (run / "logs" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()]
    losses = [float(row[rows[0].index("train/loss")]) for row in rows[1:]]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
def test_the_example_of_an_extension_trains(recipe, tmp_path, monkeypatch):
    importlib.import_module("examples.extension")
    steps, policy = [], CONDITIONING_POLICIES.get("more_references")
    spy = lambda seed, step, n, config: steps.append(step) or policy(seed, step, n, config)
    monkeypatch.setitem(CONDITIONING_POLICIES._parts, "more_references", spy)
    options = ["extensions=[examples.extension]", "conditioning.policy=more_references", "max_steps=2"]
    found = {}
    for weighting in ("soft_min_snr", "uniform"):
        run = tmp_path / weighting
        assert train.main(["--config", str(recipe), *options, f"loss.weighting={weighting}", f"out={run}"]) == 0
        found[weighting] = torch.cat([value.flatten() for value in gradients(run).values()])
    assert steps[-2:] == [0, 1] and steps.count(1) == 2
    assert not torch.allclose(found["soft_min_snr"], found["uniform"], rtol=1e-2)


@pytest.mark.slow
def test_init_from_takes_weights_only(recipe, tmp_path, tiny_model):
    frozen = ["max_steps=1", "optimizer.lr=0"]
    assert train.main(["--config", str(recipe), *frozen, f"init_from={tiny_model}"]) == 0
    expected = load_file(tiny_model / "unet" / "diffusion_pytorch_model.safetensors")
    weights = checkpoint(tmp_path / "run")["state_dict"]
    assert all(torch.equal(weights[f"unet.unet.{name}"], value) for name, value in expected.items())

    trained = tmp_path / "trained"
    assert train.main(["--config", str(recipe), "max_steps=2", f"out={trained}"]) == 0
    assert train.main(["--config", str(recipe), *frozen, f"init_from={trained}", f"out={tmp_path / 'next'}"]) == 0
    before, after = checkpoint(trained), checkpoint(tmp_path / "next")
    assert after["jedi"]["step"] == 1
    for name in expected:  # the average of the first run is where the second one begins
        assert torch.equal(after["state_dict"][f"unet.unet.{name}"], before["state_dict"][f"ema.module.unet.{name}"])


def contents(folder) -> dict[str, bytes]:
    return {str(x.relative_to(folder)): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


@pytest.mark.slow
def test_a_refused_launch_leaves_nothing(recipe, tmp_path, capsys):
    run, command = tmp_path / "run", ["--config", str(recipe)]
    assert train.main([*command, "max_steps=1"]) == 0
    before = contents(run)
    with locked(run):  # the running run's
        for options in ([], ["seed=6"]):
            assert train.main([*command, "max_steps=2", *options]) == 2
            assert f"another run is at work in {run}" in capsys.readouterr().err
    for options in (["max_steps=2", "seed=6"], ["max_steps=1", "optimizer.lr=1"]):  # going on; complete
        assert train.main([*command, *options]) == 2
        assert "was made with other settings" in capsys.readouterr().err
    assert contents(run) == before
    assert train.main([*command, "max_steps=1"]) == 0
    assert "is complete at step 1" in capsys.readouterr().out
    assert contents(run) == before


@pytest.mark.slow
def test_all_processes_learn_that_a_launch_is_refused(recipe, tmp_path):
    """Started from outside, as torchrun and Slurm do, they would wait for the first one for half an hour."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    launch |= {"GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    command = ["--config", str(recipe), "hardware.devices=2", "hardware.strategy=ddp"]

    def rank(number: int) -> int:
        os.environ.update(launch | {"RANK": str(number), "LOCAL_RANK": str(number)})
        return train.main(command)

    with locked(tmp_path / "run"), (tmp_path / "0").open("w") as first, (tmp_path / "1").open("w") as second:
        ranks = [forked.start(lambda i=i: rank(i), said.fileno()) for i, said in enumerate((first, second))]
        for i, process in enumerate(ranks):
            process.join(180)
            said = (tmp_path / str(i)).read_text()
            assert process.exitcode == 2 and f"another run is at work in {tmp_path / 'run'}" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_forked_ranks_save_when_the_process_they_come_from_is_told(recipe, tmp_path, monkeypatch, name, status):
    step = JointTraining.optimizer_step

    def tell(module, *args, **kwargs):
        step(module, *args, **kwargs)
        if module.trainer.global_rank == 1 and module.trainer.global_step == 1:
            os.kill(os.getppid(), signal.Signals[name])
            time.sleep(0.5)

    monkeypatch.setattr(JointTraining, "optimizer_step", tell)
    command = ["--config", str(recipe), "hardware.devices=2", "hardware.strategy=ddp_fork", "max_steps=60"]
    assert train.main(command) == status
    run = tmp_path / "run"
    assert 1 <= checkpoint(run)["jedi"]["step"] < 60 and not (run / "done").exists()


@pytest.mark.parametrize("scontrol", [None, "#!/bin/sh\nexit 1\n"])
def test_a_job_that_cannot_be_put_back_says_so(recipe, tmp_path, monkeypatch, capsys, scontrol):
    (tmp_path / "bin").mkdir()
    if scontrol:
        (tmp_path / "bin" / "scontrol").write_text(scontrol)
        (tmp_path / "bin" / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name, value in (("SLURM_JOB_ID", "17"), (extensions.STEP, "1"), (extensions.SIGNAL, "SIGUSR1")):
        monkeypatch.setenv(name, value)
    command = ["--config", str(recipe), "extensions=[tests.extensions]", "conditioning.policy=until_signal"]
    assert train.main(command) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("train.py: job 17 could not be put back into the queue") and "submit it again" in said
    assert checkpoint(tmp_path / "run")["jedi"]["step"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["optimizer.lrr=1"], "did you mean 'optimizer.lr'?"),
        (["data.path=/nowhere"], "no data folder /nowhere/train"),
        (["base=/nowhere"], "/nowhere: no such folder"),
        (["base=runs/tiny-base"], "`python -m jedi_toy.tiny_base --config configs/base/tiny.yaml out=runs/tiny-base`"),
        (["init_from=/nowhere"], "/nowhere: no such folder"),
        (["extensions=[no_such_module]"], "no module 'no_such_module'"),
        (["conditioning.policy=weigthed"], "did you mean 'weighted'?"),
        (["conditioning.reference_weights=[0,0,0,1]"], "leave no k below the set size n = 3"),
        (["network.attention=xformers"], "network.attention: attention back end 'xformers' does not run on cpu"),
        (["loss.weighting=min_snrr"], "did you mean 'min_snr'?"),
        (["batch_size=11"], "batch_size=11 is larger than every bucket"),
        (["micro_batch_size=3"], "cannot be cut into micro batches of 3"),
        (["validation.every_steps=1", "validation.references=4"], "too few for 4 references and 1 more"),
        (["samples.every_steps=1", "samples.prompts=4"], "too few for 1 references and 4 more"),
        (["samples.steps=1001", "samples.every_steps=1"], "num_inference_steps=1001 is too many"),
        (["samples.steps=0"], "samples.steps is 0; it must be 1 or more"),
        (["sampling_defaults.guidance_sale=2"], "sampling_defaults has ['guidance_sale']"),
        (["conditioning.modes=[thrid]"], "conditioning.modes ['thrid']"),
        (["hardware.accelerator=mps"], "hardware.accelerator=mps: this machine has none"),
        (["hardware.accelerator=cppu"], "hardware.accelerator is 'cppu'; known are auto, cpu,"),
        (["optimizer.lr=nan"], "optimizer.lr is nan; it must be 0 or more"),
        (["hardware.devices=0"], "hardware.devices is auto, 1 or more"),
        (["hardware.nodes=0"], "hardware.nodes is 0; it must be 1 or more"),
        (["hardware.strategy=ddp_frok"], "hardware.strategy is 'ddp_frok'; known are auto, ddp,"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(recipe, tmp_path, capsys, options, message):
    assert train.main(["--config", str(recipe), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("train.py: ") and "\n" not in error
    assert not (tmp_path / "run").exists()


def test_a_bug_in_an_extension_keeps_file_and_line(recipe, monkeypatch, capsys):
    def broken(schedule, timesteps, gamma):
        raise ValueError

    monkeypatch.setitem(LOSS_WEIGHTINGS._parts, "broken", broken)
    with pytest.raises(ValueError) as bug:
        train.main(["--config", str(recipe), "loss.weighting=broken"])
    assert str(bug.traceback[-1].path) == __file__
    assert "train.py:" not in capsys.readouterr().err


def test_a_held_out_split_of_one_subject_is_refused(recipe, tmp_path, shards, capsys):
    shutil.copytree(shards / "train", tmp_path / "data" / "train")
    write_shard(tmp_path / "data" / "heldout", "00000", [4], tiny.PIXELS, seed=1)
    command = ["--config", str(recipe), f"data.path={tmp_path / 'data'}", "validation.every_steps=1"]
    assert train.main(command) == 2
    assert "the reference gain needs sets of two subjects or more" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_weights_that_are_not_finite_are_not_saved(recipe, tmp_path, monkeypatch, capsys):
    done, step = [], JointTraining.optimizer_step

    def poisoned(module, *args, **kwargs):
        step(module, *args, **kwargs)
        done.append(1)
        if len(done) == STEPS:
            next(module.unet.parameters()).data[0] = float("nan")

    monkeypatch.setattr(JointTraining, "optimizer_step", poisoned)
    assert train.main(["--config", str(recipe)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the weights are not finite at step 6" in error and "lower optimizer.lr" in error
    assert checkpoint(tmp_path / "run")["jedi"]["step"] == 3 and not (tmp_path / "run" / "done").exists()


@pytest.mark.slow
def test_mixed_precision_holds_for_validation_and_samples_too(recipe, tmp_path, monkeypatch):
    precisions = []

    def note(function):
        def noted(*args, **kwargs):
            precisions.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"))
            return function(*args, **kwargs)

        return noted

    monkeypatch.setattr(JointTraining, "training_step", note(JointTraining.training_step))
    monkeypatch.setattr(callbacks, "reference_losses", note(callbacks.reference_losses))
    monkeypatch.setattr(callbacks.SampleGrid, "draw", note(callbacks.SampleGrid.draw))
    options = ["hardware.precision=bf16-mixed", "max_steps=2", "batch_size=2", "validation.every_steps=2"]
    options += ["validation.sets=2", "validation.bins=1"]
    options += ["samples.every_steps=2", "samples.steps=1", "samples.subjects=1"]
    assert train.main(["--config", str(recipe), *options]) == 0
    assert precisions == [torch.bfloat16] * 4  # two steps, the validation, the samples
    weights = checkpoint(tmp_path / "run")["state_dict"]
    assert {value.dtype for name, value in weights.items() if name.startswith("unet.")} == {torch.float32}


def test_a_corrupt_image_stops_the_run_with_its_name(recipe, tmp_path, capsys):
    write_shard(tmp_path / "data" / "train", "00000", [3] * 4, tiny.PIXELS, seed=1)
    tar = tmp_path / "data" / "train" / "00000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"IDAT", b"JUNK", 3))
    assert train.main(["--config", str(recipe), f"data.path={tmp_path / 'data'}", "data.workers=1"]) == 2
    assert "00000.tar: 00000-0000." in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_run_is_not_continued_with_other_settings_or_data(recipe, tmp_path, capsys, tiny_base):
    command = ["--config", str(recipe)]
    assert train.main([*command, "max_steps=1"]) == 0
    assert train.main([*command, "seed=6", "batch_size=2"]) == 2
    assert "seed was 5, is 6; batch_size was 4, is 2" in capsys.readouterr().err
    other = tmp_path / "other"
    write_shard(other / "train", "00000", [4] * 8, tiny.PIXELS, seed=8)
    assert train.main([*command, f"data.path={other}"]) == 2
    assert "data fingerprint was" in capsys.readouterr().err
    # what does not matter may change
    assert train.main([*command, "max_steps=2", "micro_batch_size=1", "data.workers=1", "log.every_steps=1"]) == 0
    assert checkpoint(tmp_path / "run")["jedi"]["step"] == 2


def test_a_base_that_lacks_a_part_or_predicts_something_else(recipe, tmp_path, capsys, tiny_components):
    base = tiny.save_base(tiny_components, tmp_path / "base")
    (base / "vae").rename(tmp_path / "vae")
    assert train.main(["--config", str(recipe), f"base={base}"]) == 2
    assert "has no vae" in capsys.readouterr().err
    (tmp_path / "vae").rename(base / "vae")
    settings = base / "scheduler" / "scheduler_config.json"
    settings.write_text(settings.read_text().replace("v_prediction", "epsilon"))
    assert train.main(["--config", str(recipe), f"init_from={base}"]) == 2
    assert "predicts 'epsilon', the base's scheduler says 'v_prediction'" in capsys.readouterr().err
    wide = UNet2DConditionModel.from_config(tiny_components["unet"].config, cross_attention_dim=48)
    other = tiny.save_base(tiny_components | {"unet": wide}, tmp_path / "other")
    assert train.main(["--config", str(recipe), f"init_from={other}"]) == 2
    assert "other on base" in (error := capsys.readouterr().err) and "reads text of width 48" in error


def test_help_is_quick_and_loads_no_torch(python, environment, root):
    code = "import sys, runpy; sys.argv = ['train.py', '--help']\n"
    code += "try: runpy.run_path('train.py', run_name='__main__')\nexcept SystemExit: pass\n"
    code += "import signal as s; print('torch' in sys.modules, s.getsignal(s.SIGUSR1) is s.SIG_IGN)"
    done = subprocess.run([python, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert "--config" in done.stdout
    assert done.stdout.splitlines()[-1] == "False True"
