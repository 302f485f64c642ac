"""A run is what its configuration says, however it was stopped, moved and resumed; nothing that was saved is lost."""

import json
import os
import random
import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel

import train
from jedi.errors import InputError
from jedi.training import callbacks, checkpoints, export
from jedi.training import module as training
from jedi.training.load_run import load_run
from tests import extensions, tiny
from tests.conftest import write_shard

STEPS = 6
LAYOUTS = {
    "one": [],
    "one, 2 passes": ["micro_batch_size=2"],
    "one, 4 passes": ["micro_batch_size=1"],
    "two": ["hardware.devices=2", "hardware.strategy=ddp_fork"],
    "two, 2 passes": ["hardware.devices=2", "hardware.strategy=ddp_fork", "micro_batch_size=1"],
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe with a very small UNet: sets of 3 and 4, active clipping, warm-up, an average, cached latents."""
    folder = tmp_path_factory.mktemp("resuming")
    parts = tiny.components()
    torch.manual_seed(0)
    parts["unet"] = UNet2DConditionModel(
        sample_size=tiny.LATENT_SIDE,
        in_channels=tiny.LATENT_CHANNELS,
        out_channels=tiny.LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=tiny.TEXT_WIDTH,
        attention_head_dim=2,
    )
    tiny.save_base(parts, folder / "base")
    write_shard(folder / "shards" / "train", "00000", [4, 3] * 8, tiny.PIXELS, seed=1)
    write_shard(folder / "shards" / "heldout", "00000", [4] * 4, tiny.PIXELS, seed=2)
    values = {
        "base": str(folder / "base"),
        "out": str(folder / "run"),
        "data": {"path": str(folder / "shards"), "workers": 0, "cache_latents": True},
        "max_steps": STEPS,
        "batch_size": 4,
        "checkpoints": {"every_steps": 2},
        "conditioning": {"policy": "until_signal"},
        # A large eps: where a gradient is as small as its rounding, AdamW's step would otherwise be noise of size lr.
        "optimizer": {"lr": 1e-2, "eps": 1e-3, "warmup_steps": 2, "schedule": "linear", "clip_grad_norm": 0.2},
        "ema": {"decay": 0.7},
        "validation": {"every_steps": 0},
        "samples": {"every_steps": 0},
        "log": {"loggers": []},
        "hardware": {"accelerator": "cpu", "precision": "32-true"},
        "extensions": ["tests.extensions"],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def launch(recipe, run, *options) -> int:
    return train.main(["--config", str(recipe), f"out={run}", *options])


@pytest.fixture(scope="module")
def begun(recipe, tmp_path_factory):
    """A run of one step. Read only."""
    run = tmp_path_factory.mktemp("begun") / "run"
    assert launch(recipe, run, "max_steps=1") == 0
    return run


def saved(run) -> dict:
    """The newest checkpoint; a copy, for the file may go."""
    return torch.load(checkpoints.newest(run), weights_only=True)


def tensors(run) -> dict[str, torch.Tensor]:
    """Weights, averaged weights and the optimiser's moments."""
    state = saved(run)
    found = dict(state["state_dict"])
    for i, moments in state["optimizer_states"][0]["state"].items():
        found |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    return found


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], prefix: str) -> float:
    """Length of the difference over the length of what is expected, over all tensors of a prefix."""
    names = [name for name in expected if name.startswith(prefix) and expected[name].is_floating_point()]
    flat = [torch.cat([x[name].flatten().double() for name in names]) for x in (found, expected)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


@dataclass
class Launch:
    layout: str
    max_steps: int
    end: str
    """`whole`, or how it ends in the middle: `SIGTERM`, or `CRASH`."""
    step: int = STEPS
    """The step in which it ends so."""


def schedule_of(seed: int) -> tuple[str, list[Launch]]:
    """A way to the last step by interruptions, layouts and raised max_steps, drawn at random."""
    draw = random.Random(seed)
    rate = draw.choice(["linear", "linear", "constant"])
    only = draw.choice([None] * 6 + list(LAYOUTS)[:2])
    launches, at, top = [], 0, draw.choice([STEPS, STEPS, 3, 4, 5])
    while at < STEPS:
        layout = only or draw.choice([*LAYOUTS, *list(LAYOUTS)[1:3]])
        end = draw.choice(["whole", "SIGTERM", "CRASH"])
        if end == "CRASH" and layout.startswith("two"):
            end = "SIGTERM"
        if end != "whole" and (max(1, at) >= top - 1 or len(launches) > 1):
            end = "whole"
        launches.append(Launch(layout, top, end, draw.randrange(max(1, at), top - 1) if end != "whole" else top))
        if end == "whole":
            at, top = top, min(STEPS, top + draw.choice([1, 3, 3]))
        elif end == "SIGTERM":
            at = launches[-1].step + 1
        else:
            at = max(at, launches[-1].step // 2 * 2)
    return rate, launches


@pytest.fixture(scope="module")
def references(recipe, tmp_path_factory):
    """Runs in one go, one process: by learning rate and layout, made when they are asked for."""
    made, original = {}, training.lr_factor

    def reference(rate: str, tops: tuple[int, ...], layout: str):
        key = (rate, tops if rate == "linear" else (), layout)
        if key not in made:
            run = tmp_path_factory.mktemp("reference")
            with pytest.MonkeyPatch.context() as patch:  # the rate of each step as that step's max_steps has it
                patch.setattr(training, "lr_factor", lambda step, _, config: original(step, tops[step], config))
                assert launch(recipe, run, f"optimizer.schedule={rate}", *LAYOUTS[layout]) == 0
            made[key] = tensors(run)
        return made[key]

    return reference


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_weights_do_not_depend_on_interruptions_processes_accumulation_or_raised_max_steps(
    recipe, references, tmp_path, monkeypatch, seed
):
    rate, launches = schedule_of(seed)
    run, tops, at = tmp_path / "run", [], 0
    for one in launches:
        if one.end != "whole":
            monkeypatch.setenv(extensions.STEP, str(one.step))
            monkeypatch.setenv(extensions.SIGNAL, one.end)
        options = [f"optimizer.schedule={rate}", f"max_steps={one.max_steps}", *LAYOUTS[one.layout]]
        status = launch(recipe, run, *options)
        monkeypatch.delenv(extensions.STEP, raising=False)
        if one.layout.startswith("one"):
            assert status == {"whole": 0, "SIGTERM": 143, "CRASH": 2}[one.end]
        at = {"whole": one.max_steps, "SIGTERM": one.step + 1, "CRASH": max(at, one.step // 2 * 2)}[one.end]
        assert next(iter(checkpoints.listed(run)), 0) == at
        tops = tops[:at] + [one.max_steps] * (at - len(tops))
    found = tensors(run)
    layouts = {one.layout for one in launches}
    layout = layouts.pop() if len(layouts) == 1 else "one"
    expected = references(rate, tuple(tops), layout if layout.startswith("one") else "one")
    assert found.keys() == expected.keys()
    if {one.layout for one in launches} == {layout} and layout.startswith("one"):
        assert not [name for name in expected if not torch.equal(found[name], expected[name])]
    else:
        assert distance(found, expected, "unet.") < 1e-4
        assert distance(found, expected, "ema.") < 1e-4


@pytest.mark.slow
def test_other_passes_a_step_begin_with_a_whole_step(recipe, references, tmp_path):
    """After 3 steps of one pass, Lightning's count of micro batches would end the next step after one pass of two."""
    options = ["optimizer.schedule=constant"]
    assert launch(recipe, tmp_path, *options, "max_steps=3") == 0
    assert launch(recipe, tmp_path, *options, *LAYOUTS["one, 2 passes"]) == 0
    found, expected = tensors(tmp_path), references("constant", (STEPS,) * STEPS, "one")
    assert distance(found, expected, "unet.") < 1e-4 and distance(found, expected, "ema.") < 1e-4


@pytest.mark.slow
def test_the_average_is_that_of_the_formula(recipe, tmp_path):
    """Through train.py, step by step: the decay rises as (1 + step) / (10 + step), to 0.25 at most."""
    expected = None
    for step in range(4):
        assert launch(recipe, tmp_path, f"max_steps={step + 1}", "ema.decay=0.25", "optimizer.schedule=constant") == 0
        state = {name: value.double() for name, value in saved(tmp_path)["state_dict"].items()}
        weights = {name[5:]: value for name, value in state.items() if name.startswith("unet.")}
        decay = min(0.25, (1 + step) / (10 + step))  # but the first update copies
        expected = {k: w if expected is None else decay * expected[k] + (1 - decay) * w for k, w in weights.items()}
        for name, value in expected.items():
            torch.testing.assert_close(state[f"ema.module.{name}"], value, rtol=1e-5, atol=1e-7)
    assert distance({f"x.{k}": v for k, v in weights.items()}, {f"x.{k}": v for k, v in expected.items()}, "x.") > 1e-4


@pytest.mark.slow
def test_the_learning_rate_is_that_of_the_step_also_after_a_finished_run(recipe, tmp_path):
    found = []
    for top in (3, 4):
        assert launch(recipe, tmp_path, f"max_steps={top}", "optimizer.warmup_steps=0", "optimizer.lr=1") == 0
        found.append(saved(tmp_path)["optimizer_states"][0]["param_groups"][0]["lr"])
    assert found == pytest.approx([1 / 3, 1 / 4])  # the last of 3 steps, the last of 4


def listing(run) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir()}


@pytest.mark.slow
def test_the_newest_few_are_kept_and_some_for_good_and_nothing_else_lies_there(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))  # $TMPDIR is not needed
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for host in (os.uname().nodename, "elsewhere"):  # what killed launches left
        (tmp_path / "run" / "checkpoints" / f".step-00000001.ckpt.{host}.999999999.tmp").write_text("half")
        (tmp_path / "run" / f".progress.json.{host}.999999999.tmp").write_text("half")
    options = ["checkpoints.every_steps=1", "checkpoints.keep_every_steps=3"]
    assert launch(recipe, tmp_path / "run", *options) == 0
    names = ("step-00000005", "step-00000006", "kept-00000003", "kept-00000006")
    assert listing(tmp_path / "run") == {f"{name}.{end}" for name in names for end in ("ckpt", "json")}
    assert not list((tmp_path / "run").glob(".*"))
    kept = checkpoints.load(checkpoints.find(tmp_path / "run", "kept-00000006"))["state_dict"]
    last = saved(tmp_path / "run")["state_dict"]
    assert {name.split(".")[0] for name in kept} == {"ema"} and {name.split(".")[0] for name in last} == {"ema", "unet"}
    pipe = load_run(tmp_path / "run", "kept-00000003")
    weights = checkpoints.load(checkpoints.find(tmp_path / "run", "kept-00000003"))["state_dict"]
    assert all(torch.equal(v, weights[f"ema.module.unet.{k}"]) for k, v in pipe.unet.state_dict().items())

    assert launch(recipe, tmp_path / "full", *options, "checkpoints.weights_only=false", "max_steps=3") == 0
    whole = checkpoints.load(checkpoints.find(tmp_path / "full", "kept-00000003"))
    assert "optimizer_states" in whole and {name.split(".")[0] for name in whole["state_dict"]} == {"ema", "unet"}


@pytest.mark.slow
def test_no_file_that_may_be_removed_stays_mapped(recipe, tmp_path, monkeypatch):
    """On a network file system another process may remove it, and reading from it would kill this one."""
    mapped, step = [], training.JointTraining.training_step

    def spied(module, *args):
        lines = Path("/proc/self/maps").read_text().splitlines()
        mapped.append([line for line in lines if str(tmp_path) in line])
        return step(module, *args)

    assert launch(recipe, tmp_path, "max_steps=1") == 0
    monkeypatch.setattr(training.JointTraining, "training_step", spied)
    assert launch(recipe, tmp_path, "max_steps=2") == 0
    assert mapped == [[]]


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_costs_steps_and_nothing_else(recipe, references, tmp_path, caplog, capsys):
    assert launch(recipe, tmp_path, "max_steps=5") == 0
    newest, older = list(checkpoints.listed(tmp_path).values())
    data = bytearray(newest.read_bytes())
    data[len(data) // 3] ^= 16
    newest.write_bytes(data)
    assert export.main([str(tmp_path), str(tmp_path / "model")]) == 2
    assert f"{newest} is damaged" in (line := capsys.readouterr().err) and f"choose another: {older.stem}" in line
    assert launch(recipe, tmp_path) == 0
    assert f"{newest} is damaged" in caplog.text and f"resuming from the older {older.name}" in caplog.text
    expected = references("linear", (5,) * 4 + (6,) * 2, "one")
    assert not [name for name, value in tensors(tmp_path).items() if not torch.equal(value, expected[name])]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: [path.unlink() for path in run.glob("checkpoints/*")], "had reached step 1, as done says, but"),
        (lambda run: [path.write_bytes(b"x") for path in run.glob("checkpoints/*.ckpt")], "No older one is whole"),
        (lambda run: (run / "done").write_text('{"step": '), "done is damaged"),
        (lambda run: (run / "done").write_text('{"step": "many"}'), "done is damaged"),
        (lambda run: (run / "identity.json").write_text(""), "identity.json is damaged"),
        (lambda run: (run / "identity.json").write_text("[1]"), "identity.json is damaged"),
        (lambda run: (run / "identity.json").write_text("{}"), "identity.json is damaged"),
        (lambda run: (run / "identity.json").unlink(), "identity.json is missing"),
    ],
)
def test_what_is_missing_or_damaged_in_a_run_is_named_in_one_line(recipe, begun, tmp_path, capsys, damage, message):
    run = shutil.copytree(begun, tmp_path / "run")
    damage(run)
    capsys.readouterr()
    assert launch(recipe, run) == 2
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: "))
    assert message in line and str(run) in line


@pytest.mark.slow
def test_a_finished_run_whose_result_is_not_whole_makes_it_anew(recipe, references, tmp_path, capsys):
    assert launch(recipe, tmp_path) == 0 and launch(recipe, tmp_path) == 0
    assert "is complete at step 6" in capsys.readouterr().out
    newest = checkpoints.newest(tmp_path)
    for damage in (lambda: newest.write_bytes(newest.read_bytes()[:-1] + b"?"), lambda: checkpoints.remove(newest)):
        damage()
        assert launch(recipe, tmp_path) == 0 and "is complete" not in capsys.readouterr().out
        expected = references("linear", (STEPS,) * STEPS, "one")
        assert not [name for name, value in tensors(tmp_path).items() if not torch.equal(value, expected[name])]


@pytest.mark.slow
def test_a_run_goes_on_without_the_model_that_it_started_from(recipe, tmp_path):
    options = [f"init_from={tmp_path / 'first'}", "optimizer.schedule=constant"]
    assert launch(recipe, tmp_path / "first", "max_steps=1") == 0
    assert launch(recipe, tmp_path / "whole", *options, "max_steps=3") == 0
    assert launch(recipe, tmp_path / "run", *options, "max_steps=2") == 0
    shutil.rmtree(tmp_path / "first")
    assert launch(recipe, tmp_path / "run", *options, "max_steps=3") == 0
    found, expected = tensors(tmp_path / "run"), tensors(tmp_path / "whole")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_what_is_kept_for_good_is_not_lost_by_an_end_between_two_checkpoints(recipe, tmp_path, monkeypatch):
    options = ["checkpoints.every_steps=1", "checkpoints.keep_every_steps=2", "max_steps=2"]
    saves, save = [], callbacks.save_checkpoint

    def fails_at_the_third(*args):
        saves.append(args[2])
        if len(saves) == 3:
            raise InputError("the end")
        save(*args)

    monkeypatch.setattr(callbacks, "save_checkpoint", fails_at_the_third)
    assert launch(recipe, tmp_path, *options) == 2 and launch(recipe, tmp_path, *options) == 0
    assert list(checkpoints.listed(tmp_path, "kept")) == [2] and sorted(saves) == ["kept"] * 2 + ["step"] * 3


@pytest.mark.slow
def test_weights_that_are_not_finite_are_neither_exported_nor_started_from(recipe, tmp_path, capsys):
    assert launch(recipe, tmp_path / "run", "max_steps=1") == 0
    path = checkpoints.newest(tmp_path / "run")
    state = torch.load(path, weights_only=True)
    next(v for k, v in state["state_dict"].items() if k.startswith("ema.module.unet."))[0] = float("nan")
    checkpoints.save(state, path, {"step": 1})
    assert export.main([str(tmp_path / "run"), str(tmp_path / "model")]) == 2
    assert "step-00000001.ckpt: weights are not finite" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    assert launch(recipe, tmp_path / "next", f"init_from={tmp_path / 'run'}") == 2
    assert "step-00000001.ckpt: weights are not finite" in capsys.readouterr().err


VALIDATION = ["validation.every_steps=2", "validation.sets=4", "validation.bins=1", "validation.batch_size=2"]


@pytest.mark.slow
def test_the_best_is_compared_with_what_was_measured_in_the_same_way(recipe, tmp_path, monkeypatch, capsys):
    losses, gain = iter([0.5, 0.6, 0.7, 0.6]), callbacks.reference_gain
    monkeypatch.setattr(callbacks, "reference_gain", lambda *args: gain(*args) | {"heldout/loss": next(losses)})
    expected = [(2, "sets=4", 2), (3, "sets=4", 2), (4, "sets=3", 4), (6, "sets=3", 6)]
    for top, options, best in expected:
        assert launch(recipe, tmp_path, *VALIDATION, f"validation.{options}", f"max_steps={top}") == 0
        record = checkpoints.check(checkpoints.find(tmp_path, "best"))
        assert record["step"] == best and len(checkpoints.listed(tmp_path, "best")) == 1
        said = [line for line in capsys.readouterr().err.splitlines() if "does not count as the best" in line]
        assert len(said) == (top == 4)
    assert record["measured"]["sets"] == 3 and record["loss"] == 0.6
    best = checkpoints.load(checkpoints.find(tmp_path, "best"))
    assert {name.split(".")[0] for name in best["state_dict"]} == {"ema"}


@pytest.mark.slow
def test_a_best_that_is_damaged_does_not_count(recipe, tmp_path, capsys):
    assert launch(recipe, tmp_path, *VALIDATION, "max_steps=2") == 0
    checkpoints.find(tmp_path, "best").write_bytes(b"")
    assert launch(recipe, tmp_path, *VALIDATION, "max_steps=4") == 0
    assert checkpoints.check(checkpoints.find(tmp_path, "best"))["step"] == 4
    assert "best-00000002.ckpt is damaged" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 3])
def test_a_best_that_is_made_up_for_at_a_launch_has_the_optimiser_too(recipe, tmp_path, monkeypatch, step):
    """Lightning restores the optimiser after the callbacks have begun: its state was saved empty."""
    losses, gain = iter([0.5, 0.6]), callbacks.reference_gain
    monkeypatch.setattr(callbacks, "reference_gain", lambda *args: gain(*args) | {"heldout/loss": next(losses)})
    monkeypatch.setenv(extensions.STEP, str(step - 1))
    monkeypatch.setenv(extensions.SIGNAL, "SIGTERM")
    options = [*VALIDATION, "max_steps=3", f"validation.every_steps={step}", "checkpoints.weights_only=false"]
    assert launch(recipe, tmp_path, *options) == 143
    stopped = saved(tmp_path)["optimizer_states"][0]["state"]
    assert launch(recipe, tmp_path, *options) == 0
    best = checkpoints.load(checkpoints.find(tmp_path, f"best-0000000{step}"))["optimizer_states"][0]["state"]
    assert best.keys() == stopped.keys() and len(best) > 10
    assert all(torch.equal(best[i][name], stopped[i][name]) for i in best for name in best[i])


@pytest.mark.parametrize(
    ("moment", "step"),
    [
        ("before", 2),
        *(
            pytest.param(moment, step, marks=pytest.mark.slow)
            for moment, step in (("before", 3), ("validation", 2), ("validation", 3), ("samples", 2), ("samples", 3))
        ),
    ],
)
def test_a_signal_saves_before_validation_and_samples_which_are_made_up_for(
    recipe, tmp_path, monkeypatch, step, moment
):
    """Before them, and in the midst of them; in the middle of a run, and at its last step."""
    events, send = [], lambda: os.kill(os.getpid(), signal.SIGTERM)

    def spy(owner, name, event):
        original = getattr(owner, name)

        def spied(*args, **kwargs):
            events.append(event)
            if event == moment and sent == []:
                sent.append(send())
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, spied)

    sent, save = [], callbacks.save_checkpoint
    spy(callbacks, "reference_losses", "validation")
    spy(callbacks.SampleGrid, "draw", "samples")
    monkeypatch.setattr(callbacks, "save_checkpoint", lambda *args: events.append(args[2]) or save(*args))
    if moment == "before":
        monkeypatch.setenv(extensions.STEP, str(step - 1))
        monkeypatch.setenv(extensions.SIGNAL, "SIGTERM")
    options = [*VALIDATION, f"validation.every_steps={step}", "checkpoints.every_steps=100", "max_steps=3"]
    options += [f"samples.every_steps={step}", "samples.steps=1", "samples.subjects=2", "samples.prompts=1"]
    assert launch(recipe, tmp_path, *options) == 143
    before = {"before": [], "validation": ["validation"], "samples": ["validation", "best", "samples"]}[moment]
    assert events == [*before, "step"]
    assert saved(tmp_path)["jedi"]["step"] == step and not (tmp_path / "done").exists()
    assert not (tmp_path / "samples").exists()
    events.clear()
    assert launch(recipe, tmp_path, *options) == 0
    owed = ["samples"] if moment == "samples" else ["validation", "best", "samples"]
    last = [] if step == 3 else ["validation", "best", "samples", "step"]
    assert [event for event in events if event != "best"] == [event for event in owed + last if event != "best"]
    assert json.loads((tmp_path / "done").read_text()) == {"step": 3}
    images = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert images == [f"step-{number:08d}.png" for number in sorted({step, 3})]
    assert next(iter(checkpoints.listed(tmp_path))) == 3


def test_without_an_average_none_is_kept_and_the_trained_weights_are_sampled_and_exported(
    recipe, tmp_path, monkeypatch
):
    scored, losses = [], callbacks.reference_losses

    def spied(unet, *args, **kwargs):
        scored.append(unet.unet.conv_in.weight.detach().clone())
        assert not unet.training
        return losses(unet, *args, **kwargs)

    monkeypatch.setattr(callbacks, "reference_losses", spied)
    options = [*VALIDATION, "validation.sets=2", "max_steps=2", "ema.decay=0", "optimizer.warmup_steps=0"]
    assert launch(recipe, tmp_path, *options, "optimizer.schedule=constant") == 0
    state = saved(tmp_path)["state_dict"]
    assert {name.split(".")[0] for name in state} == {"unet"}
    assert torch.equal(scored[0], state["unet.unet.conv_in.weight"])
    for name in ("best", "last"):
        weights = load_run(tmp_path, name).unet.state_dict()
        assert all(torch.equal(value, state[f"unet.unet.{name}"]) for name, value in weights.items())
    best = checkpoints.load(checkpoints.find(tmp_path, "best"))
    assert "optimizer_states" not in best and best["state_dict"].keys() == state.keys()


@pytest.mark.slow
def test_an_average_of_every_few_steps_on_the_cpu_resumes_exactly(recipe, tmp_path):
    options = ["ema.every_steps=2", "ema.device=cpu", "optimizer.schedule=constant"]
    assert launch(recipe, tmp_path / "whole", *options) == 0
    assert launch(recipe, tmp_path / "run", *options, "max_steps=3") == 0
    assert launch(recipe, tmp_path / "run", *options[:1], *options[2:]) == 0  # the device is free to change
    found, expected = tensors(tmp_path / "run"), tensors(tmp_path / "whole")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adafactor", "sgd"])
def test_other_optimizers_resume_exactly(recipe, tmp_path, name):
    """`sgd` is an extension's (tests/extensions.py)."""
    options = [f"optimizer.name={name}", "optimizer.schedule=constant", "max_steps=4"]
    assert launch(recipe, tmp_path / "whole", *options) == 0
    assert launch(recipe, tmp_path / "run", *options[:2], "max_steps=2") == 0
    assert launch(recipe, tmp_path / "run", *options) == 0
    found, expected = tensors(tmp_path / "run"), tensors(tmp_path / "whole")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_gradients_are_clipped_before_a_fused_step_in_mixed_precision(recipe, tmp_path):
    assert (
        launch(recipe, tmp_path, "hardware.precision=bf16-mixed", "max_steps=1", "optimizer.clip_grad_norm=1e-9") == 0
    )
    moments = [state["exp_avg"] for state in saved(tmp_path)["optimizer_states"][0]["state"].values()]
    assert 0 < torch.cat([x.flatten() for x in moments]).norm() < 2e-10  # 0.1 of the gradient


def test_out_of_memory_names_the_settings_that_need_less(recipe, tmp_path, monkeypatch, capsys):
    def run_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(training, "joint_loss", run_out)
    assert launch(recipe, tmp_path, "max_steps=1") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("train.py: out of memory; what needs less: a smaller micro_batch_size, network.gradient_ch")


@pytest.mark.slow
def test_what_is_not_trained_is_in_half_precision(recipe, tmp_path, monkeypatch):
    """Frozen weights of the UNet in mixed precision too; what is trained, and its average, stay in float32."""
    dtypes, loss = {}, training.joint_loss

    def spied(unet, schedule, latents, text, *args):
        dtypes.update(
            {name: p.dtype for name, p in unet.named_parameters()}, latents=latents.dtype, text=text.embeds.dtype
        )
        return loss(unet, schedule, latents, text, *args)

    monkeypatch.setattr(training, "joint_loss", spied)
    options = ["hardware.frozen_dtype=bfloat16", "lora.rank=2", "max_steps=2", *VALIDATION, "validation.sets=2"]
    options += ["data.cache_latents=false", "network.channels_last=true"]
    assert launch(recipe, tmp_path, *options, "hardware.precision=bf16-mixed", "checkpoints.every_steps=1") == 0
    trained = {name for name in dtypes if "lora" in name or "conv_in" in name}
    assert {dtypes[name] for name in trained} == {torch.float32} and len(trained) > 4
    assert {dtypes[name] for name in dtypes.keys() - trained - {"latents", "text"}} == {torch.bfloat16}
    assert dtypes["latents"] == dtypes["text"] == torch.float32
    state = saved(tmp_path)["state_dict"]
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert launch(recipe, tmp_path, *options, "max_steps=3", "hardware.precision=32-true") == 0
    assert dtypes["unet.conv_out.weight"] == torch.float32  # which no autocast would bring together
