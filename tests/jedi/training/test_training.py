"""The parts of a training run, one by one; tests/test_train.py runs them together."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from jedi.conditioning import ConditioningConfig
from jedi.data import JointBatch
from jedi.io.base import load_base
from jedi.io.config import load
from jedi.training.config import DataSourceConfig, OptimizerConfig, TrainConfig, TrainDataConfig
from jedi.training.module import JointTraining
from jedi.training.optimizer import lr_factor, make_optimizer
from jedi.training.run import make_logger, write_run
from jedi.training.signals import requeue
from jedi.training.sources import training_index, training_plan


def make_module(base, **options) -> JointTraining:
    config = TrainConfig(base=str(base), out="unused", data=TrainDataConfig("unused"), **options)
    return JointTraining(config, load_base(base))


@pytest.fixture
def module(tiny_base):
    return make_module(tiny_base)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, {0: 0.25, 3: 1.0, 4: 1.0, 19: 1.0}),
        ({"schedule": "linear"}, {0: 0.25, 3: 1.0, 4: 1.0, 12: 0.5, 20: 0.0, 99: 0.0}),
        ({"schedule": "cosine"}, {4: 1.0, 8: 0.5 + 0.5**1.5, 12: 0.5, 20: 0.0}),
        ({"schedule": "linear", "decay_steps": 4, "final_lr": 0.2}, {4: 1.0, 16: 1.0, 18: 0.6, 20: 0.2}),
    ],
)
def test_the_learning_rate_warms_up_stays_and_falls(options, expected):
    config = OptimizerConfig(warmup_steps=4, **options)
    assert {step: lr_factor(step, 20, config) for step in expected} == pytest.approx(expected)


def test_only_matrices_and_kernels_decay():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.GroupNorm(1, 2), nn.Linear(2, 2))
    optimizer = make_optimizer(model, OptimizerConfig(lr=0.1, weight_decay=0.3, betas=[0.8, 0.9]))
    decayed, plain = optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[2].weight)}
    assert len(plain["params"]) == 4
    assert optimizer.defaults["betas"] == (0.8, 0.9)


def test_text_is_encoded_as_in_sampling_and_equal_captions_once(module, monkeypatch):
    from jedi.captions import encode_captions
    from jedi.training import module as training

    seen = []

    def spy(model, captions):
        seen.extend(captions)
        return encode_captions(model, captions)

    monkeypatch.setattr(training, "encode_captions", spy)
    text = module.encode_text([["a cat", "", "a dog"], ["", "a dog", ""]], 32, 32).embeds
    assert sorted(seen) == ["", "a cat", "a dog"]
    base = module.base
    alone = encode_captions(base, ["a dog"]).embeds[0]
    assert text.shape[:2] == (2, 3)
    torch.testing.assert_close(text[0, 2], alone)
    torch.testing.assert_close(text[1, 1], alone)
    torch.testing.assert_close(text[0, 1], text[1, 0])
    assert not torch.allclose(text[0, 0], text[0, 2])


def test_images_are_encoded_as_in_sampling(module):
    from jedi.vae import encode_pixels

    images = torch.rand(2, 3, 3, 32, 32) * 2 - 1
    latents = module.encode_images(images)
    assert latents.shape == (2, 3, 4, 8, 8) and not latents.requires_grad
    torch.testing.assert_close(latents[1, 2], encode_pixels(module.base.vae, images[1, 2:])[0])


def test_captions_are_dropped_as_drawn(tiny_base, monkeypatch):
    conditioning = ConditioningConfig(
        reference_weights=[0, 1], drop_references_prob=0, drop_target_caption_prob=1, drop_reference_caption_prob=0
    )
    module = make_module(tiny_base, conditioning=conditioning)
    seen, encode = [], module.encode_text
    monkeypatch.setattr(module, "encode_text", lambda captions, *size: seen.append(captions) or encode(captions, *size))
    batch = JointBatch(
        images=None,
        latents=torch.randn(2, 2, 4, 8, 8),
        captions=[["a cat", "a dog"], ["a bird", "a cup"]],
        subject_ids=["x", "y"],
        positions=torch.tensor([0, 1]),
        step=0,
    )
    assert torch.isfinite(module.training_step(batch, 0))
    assert seen == [[["a cat", ""], ["a bird", ""]]]  # the reference comes first


def test_a_pipeline_knows_how_many_references_are_trained(module):
    trainer = SimpleNamespace(datamodule=SimpleNamespace(max_references=2))
    module.trainer = trainer
    assert module.pipeline().config.max_trained_references == 2


def test_a_run_keeps_its_id_at_wandb(tmp_path, monkeypatch):
    class Wandb:  # the package need not be there
        def __init__(self, id, **options):
            self.version = id

    monkeypatch.setattr("jedi.training.run.WandbLogger", Wandb)
    config = load(TrainConfig, None, ["base=x", f"out={tmp_path / 'run'}", "data.path=x"])
    first = make_logger("wandb", config)
    assert len(first.version) == 16 and make_logger("wandb", config).version != first.version
    assert not (tmp_path / "run").exists()  # the launch may still be refused
    write_run(config, {}, SimpleNamespace(is_global_zero=True, loggers=[first]))
    assert make_logger("wandb", config).version == first.version


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_JOB_ID": "7"}, "requeue 7\n"),
        ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "1"}, "requeue 8_1\n"),
        ({}, None),
    ],
)
def test_requeue_names_the_job_or_the_task(tmp_path, monkeypatch, environment, expected):
    script = tmp_path / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/log\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    requeue(environment)
    assert ((tmp_path / "log").read_text() if (tmp_path / "log").exists() else None) == expected


@pytest.mark.parametrize(
    ("asked", "capabilities", "expected"),
    [
        ("auto", {"avx512_bf16": False, "amx_bf16": False}, "32-true"),
        ("auto", {}, "32-true"),
        ("32-true", {"avx512_bf16": True}, "32-true"),
        ("bf16-mixed", {}, "bf16-mixed"),
    ],
)
def test_precision_on_a_cpu(asked, capabilities, expected, monkeypatch):
    from jedi.training.config import HardwareConfig
    from jedi.training.trainer import choose_precision

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_precision(HardwareConfig(accelerator="cpu", precision=asked)) == expected


@pytest.mark.parametrize(("slowdown", "expected"), [(0.001, "bf16-mixed"), (0.1, "32-true")])
def test_bf16_is_chosen_on_a_cpu_where_a_trial_is_not_slow(slowdown, expected, monkeypatch):
    from jedi.training.config import HardwareConfig
    from jedi.training.trainer import choose_precision

    clock = [0.0]

    def mm(a, b):
        clock[0] += slowdown if a.dtype == torch.bfloat16 else 0.001

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    assert choose_precision(HardwareConfig(accelerator="cpu")) == expected


def test_the_loss_of_a_source_has_its_weight(tiny_base, shards):
    """Prior preservation. What is logged stays as it is, to be compared between steps."""
    sources = [DataSourceConfig(str(shards), loss_weight=weight) for weight in (1.0, 0.25)]
    config = TrainConfig(str(tiny_base), "unused", TrainDataConfig(sources=sources), batch_size=2)
    module = JointTraining(config, load_base(tiny_base))
    plan = training_plan(config, training_index(config.data))
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(plan=plan))
    for step, expected in ((0, 1.0), (1, 0.25)):
        batch = JointBatch(
            images=None,
            latents=torch.randn(2, 3, 4, 8, 8),
            captions=[["a cat"] * 3] * 2,
            subject_ids=["x", "y"],
            positions=torch.tensor([0, 1]),
            step=step,
        )
        module.loss_sum = 0.0
        assert plan.place(step)[0] == step
        assert float(module.training_step(batch, 0)) == pytest.approx(expected * float(module.loss_sum))
