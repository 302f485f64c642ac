"""The average of the weights: its formula, where it is kept, and that the model has it for a time only."""

import pytest
import torch
from torch import nn

from jedi.training.average import AveragedWeights, decay_at
from jedi.training.config import EmaConfig


def values_after(model: nn.Linear, config: EmaConfig, steps: int) -> list[float]:
    """The averaged bias after each step, where the step's number is the trained one."""
    average, found = AveragedWeights(model, config), []
    for step in range(1, steps + 1):
        nn.init.constant_(model.bias, float(step))
        average.update(step)
        found.append(float(average.weights["bias"].mean()))
    return found


def test_the_first_update_copies_and_the_decay_rises_to_that_of_the_config():
    second = 2 + (1 - 2) * 2 / 11
    expected = [1.0, second, 3 + (second - 3) * 3 / 12]
    assert values_after(nn.Linear(2, 2), EmaConfig(0.9), 3) == pytest.approx(expected)
    assert decay_at(10**6, EmaConfig(0.99)) == 0.99


def test_every_few_steps_it_keeps_what_as_many_steps_would():
    found = values_after(nn.Linear(2, 2), EmaConfig(0.5, every_steps=3), 7)
    decay = (6 / 15) ** 3
    assert found[2:] == pytest.approx([3.0, 3.0, 3.0, decay * 3 + (1 - decay) * 6, decay * 3 + (1 - decay) * 6])
    assert decay_at(10**6, EmaConfig(0.99, every_steps=10)) == pytest.approx(0.99**10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_has_the_average_to_the_end_of_the_block(dtype):
    model = nn.Linear(2, 2).to(dtype)
    average = AveragedWeights(model, EmaConfig(0.9))
    before = model.bias.detach().clone()
    average.weights["bias"] += 1
    with average.applied():
        assert torch.equal(model.bias, average.weights["bias"].to(dtype))
        assert (model.bias.data_ptr() == average.weights["bias"].data_ptr()) == (dtype == torch.float32)  # no copy
    assert torch.equal(model.bias, before) and average.weights["bias"].dtype == torch.float32


def test_weights_in_half_precision_have_an_average_in_float32():
    """With a decay near 1 the average moves by less than bfloat16 can tell apart."""
    model = nn.Linear(2, 2).to(torch.bfloat16)
    average = AveragedWeights(model, EmaConfig(0.999))
    nn.init.constant_(model.bias, 1.0)
    average.update(1)
    nn.init.constant_(model.bias, 2.0)
    for step in range(10**5, 10**5 + 3):
        average.update(step)
    assert average.weights["bias"].tolist() == pytest.approx([2 - 0.999**3] * 2)


def test_frozen_weights_are_not_kept_twice_and_without_a_decay_nothing_is():
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    assert AveragedWeights(model, EmaConfig()).state_dict().keys() == {"ema.module.bias"}
    none = AveragedWeights(model, EmaConfig(decay=0))
    before = model.bias.detach().clone()
    none.update(1)
    with none.applied():
        assert torch.equal(model.bias, before)
    assert not none.state_dict()


def test_on_the_cpu_it_stays_when_it_is_moved():
    """`meta` stands for a GPU."""
    model = nn.Linear(2, 2)
    for device, expected in (("cpu", "cpu"), ("auto", "meta")):
        average = AveragedWeights(model, EmaConfig(device=device))
        average.to(torch.device("meta"))
        assert average.weights["bias"].device.type == expected
