"""Optimisers by name: what each keeps, that it resumes exactly, and what is said where its package is missing.

Those of bitsandbytes and torchao run where these are installed (`pip install 'jedi-diffusion[optimizers]'`).
"""

import copy
import importlib.util

import pytest
import torch
from torch import nn

from jedi.errors import InputError
from jedi.training import checkpoints
from jedi.training.config import OptimizerConfig
from jedi.training.optimizer import make_optimizer, set_lr, unmap

PACKAGES = {"adamw_8bit": "bitsandbytes", "adamw_8bit_torchao": "torchao", "adamw_4bit_torchao": "torchao"}


@pytest.fixture(params=["adamw", "adafactor", *PACKAGES])
def name(request):
    """Each optimiser of ours whose package is there."""
    if package := PACKAGES.get(request.param):
        pytest.importorskip(package)
        # torchao compiles its step for each shape, minutes on a CPU.
        with torch.compiler.set_stance("force_eager"):
            yield request.param
    else:
        yield request.param


def model() -> nn.Module:
    """With a matrix of more than 4,096 values: smaller ones are not quantised."""
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 128))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    """One step whose gradient and learning rate are functions of its number."""
    optimizer.zero_grad()
    images = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(number))
    net(images).square().mean().backward()
    set_lr(optimizer, 1e-2 / number)
    optimizer.step()


def memory(state: object) -> int:
    """Bytes of all tensors of a state, those inside of other tensors too."""
    if isinstance(state, dict):
        return sum(memory(value) for value in state.values())
    if hasattr(state, "__tensor_flatten__"):
        return sum(memory(getattr(state, part)) for part in state.__tensor_flatten__()[0] if part != "qmap")
    return state.numel() * state.element_size() if isinstance(state, torch.Tensor) and state.numel() != 256 else 0


def test_it_resumes_exactly_from_a_checkpoint_and_its_rate_is_that_of_the_step(name, tmp_path):
    config = OptimizerConfig(name)
    net = model()
    optimizer = make_optimizer(net, config)
    for number in (1, 2):
        step(net, optimizer, number)
    other = model()
    other.load_state_dict(copy.deepcopy(net.state_dict()))
    path = tmp_path / "step-00000002.ckpt"
    checkpoints.save({"optimizer": optimizer.state_dict()}, path, {"step": 2})
    step(net, optimizer, 3)

    resumed = make_optimizer(other, config)
    resumed.load_state_dict(checkpoints.load(path)["optimizer"])
    unmap(resumed)
    path.unlink()
    step(other, resumed, 3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    assert [float(group["lr"]) for group in resumed.param_groups] == pytest.approx([1e-2 / 3] * 2)
    assert [group["weight_decay"] for group in resumed.param_groups] == [config.weight_decay, 0.0]


def test_its_state_is_as_small_as_is_said(name):
    net = model()
    optimizer = make_optimizer(net, OptimizerConfig(name))
    step(net, optimizer, 1)
    matrix = net[2].weight
    bytes_a_weight = memory(dict(optimizer.state[matrix])) / matrix.numel()
    expected = {"adamw": 8, "adafactor": 0.1, "adamw_4bit_torchao": 1}.get(name, 2)
    assert bytes_a_weight == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("name", list(PACKAGES))
def test_a_missing_package_is_named_with_what_installs_it(name, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda x: None if x == PACKAGES[name] else find(x))
    message = rf"optimizer.name={name} needs {PACKAGES[name]}, .*pip install 'jedi-diffusion\[optimizers\]'"
    with pytest.raises(InputError, match=message):
        make_optimizer(model(), OptimizerConfig(name))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="unknown optimizer 'adamw8': did you mean 'adamw"):
        make_optimizer(model(), OptimizerConfig("adamw8"))
