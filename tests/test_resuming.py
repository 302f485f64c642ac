"""A run is what its configuration says, however it was stopped, moved and resumed; nothing that was saved is lost."""

import random
from dataclasses import dataclass

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel

import train
from jedi import checkpoints, training
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
    launches, at, top = [], 0, draw.choice([STEPS, 3, 4, 5])
    while at < STEPS:
        layout = only or draw.choice(list(LAYOUTS))
        end = draw.choice(["whole", "SIGTERM", "CRASH"])
        if end == "CRASH" and layout.startswith("two"):
            end = "SIGTERM"
        if end != "whole" and (max(1, at) >= top - 1 or len(launches) > 2):
            end = "whole"
        launches.append(Launch(layout, top, end, draw.randrange(max(1, at), top - 1) if end != "whole" else top))
        if end == "whole":
            at, top = top, min(STEPS, top + draw.choice([1, 2, 3]))
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
@pytest.mark.parametrize("seed", range(32))
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
        assert (saved(run)["jedi"]["step"] if checkpoints.listed(run) else 0) == at
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
