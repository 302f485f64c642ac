"""The averaged weights of a training run: as a pipeline, or as the UNet that another training begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel

from jedi.errors import InputError
from jedi.io import config as configs
from jedi.io.base import (
    FROZEN_PARTS,
    check_init_from,
    empty_is_zeros,
    find_folder,
    fingerprint,
    load_parts,
    load_unet,
    settings_folder,
)
from jedi.io.files import read_own_json
from jedi.pipeline import JediPipeline
from jedi.training import checkpoints
from jedi.training.average import PREFIX
from jedi.training.config import TrainConfig
from jedi.training.trained import check_frozen, frozen_sha256, make_unet, merge_lora, trained

_TRAINED, _AVERAGED = "unet.unet.", f"{PREFIX}unet."


def is_run(folder: str | Path) -> bool:
    """Whether this is the folder of a training run."""
    return (Path(folder) / "config.yaml").is_file() and (Path(folder) / "checkpoints").is_dir()


def load_run(run: str | Path, checkpoint: str = "last", merge: bool = True) -> JediPipeline:
    """The pipeline of a run's averaged weights.

    Args:
        run: the run's folder.
        checkpoint: `last`, `best` (by the held-out loss), or one of ``checkpoints/`` by its name (`kept-00001000`).
        merge: LoRA adapters are added to the UNet's weights; False leaves them beside, and marks what is trained.

    Raises:
        InputError: not a run, or one without that checkpoint; it is damaged, or not finite.
    """
    config, state, path = _read(run, checkpoint)
    configs.import_extensions(config.extensions)  # a mode of the run's may be one that they register
    base = base_of(run, config)
    return JediPipeline(
        **load_parts(base, FROZEN_PARTS, config.base_variant, config.base_config),
        force_zeros_for_empty_prompt=empty_is_zeros(settings_folder(base, config.base_config)),
        unet=_unet(run, config, state, path, merge),
        trained_modes=config.trained_modes,
        max_trained_references=state["jedi"]["max_references"],
        sampling_defaults=config.sampling_defaults,
    )


def base_of(run: str | Path, config: TrainConfig) -> Path:
    """The folder of a run's base, also where this command is given from another folder than the training's, and where
    run and base were moved together; what the hub gives for a name.

    Raises:
        InputError: it is not there, or what is there is not what the run was trained on.
    """
    key = "base fingerprint"
    wanted = read_own_json(Path(run) / "identity.json", **{key: str})[key]
    found = _folders(run, "base", config.base) or [find_folder(config.base, config.base_revision, config.base_variant)]
    for folder in found:
        if fingerprint(folder)[:16] == wanted:
            return folder
    raise InputError(
        f"{run} was trained on another base than {' and '.join(map(str, found))}, where it was: "
        f"{', '.join(FROZEN_PARTS)} differ; put the old one back"
    )


def load_run_unet(run: str | Path, prediction_type: str) -> UNet2DConditionModel:
    """The averaged UNet of a run's last checkpoint. Raises ``InputError`` if it predicts something else."""
    config, state, path = _read(run, "last")
    check_init_from(state["jedi"]["prediction_type"], prediction_type, run)
    return _unet(run, config, state, path)


def _folders(run: str | Path, name: str, value: str) -> list[Path]:
    """Where the folder lies that was the run's `base` or `init_from`; none if it was a name on the hub."""
    file = Path(run) / f"{name}.json"
    if not file.exists():
        return []
    places = read_own_json(file, absolute=str, relative=str)
    named = [Path(places["absolute"]), Path(run, places["relative"])]
    found = [
        folder for folder in named if folder.is_file() or is_run(folder) or (folder / "model_index.json").is_file()
    ]
    if not found:
        raise InputError(f"{run} was trained on {name} {value}, which is neither {named[0]} nor {named[1]}")
    return found


def load_first_unet(source: str | Path, prediction_type: str) -> UNet2DConditionModel:
    """The UNet of ``init_from``: of a run or of a model. Raises ``InputError`` if it predicts something else."""
    return (load_run_unet if is_run(source) else load_unet)(source, prediction_type)


def _read(run: str | Path, checkpoint: str) -> tuple[TrainConfig, dict[str, Any], Path]:
    run = Path(run)
    if not is_run(run):
        raise InputError(f"{run} is not the folder of a training run (config.yaml and checkpoints/ make one)")
    path = checkpoints.find(run, checkpoint)
    return configs.load(TrainConfig, run / "config.yaml"), checkpoints.load(path), path


def _unet(
    run: str | Path, config: TrainConfig, state: dict[str, Any], path: Path, merge: bool = True
) -> UNet2DConditionModel:
    weights = {
        name.removeprefix(prefix): value
        for prefix in (_TRAINED, _AVERAGED)  # where there is an average, that
        for name, value in state["state_dict"].items()
        if name.startswith(prefix)
    }
    invalid = [name for name, value in weights.items() if not bool(value.isfinite().all())]
    if invalid:
        raise checkpoints.CheckpointError(f"{path}: weights are not finite ({invalid[0]} and {len(invalid) - 1} more)")
    if not config.trains_part:
        unet = UNet2DConditionModel.from_config(state["jedi"]["unet"])
        unet.load_state_dict(weights)
        return unet.eval()
    if config.init_from is None:
        first = load_parts(base_of(run, config), ("unet",), config.base_variant, config.base_config)["unet"]
    else:
        source = next(iter(_folders(run, "init_from", config.init_from)), config.init_from)
        first = load_first_unet(source, state["jedi"]["prediction_type"])
    unet = make_unet(first, config).unet.eval()
    check_frozen(state["jedi"], frozen_sha256(unet), config)
    if weights.keys() != trained(unet).keys():
        raise checkpoints.CheckpointError(f"{path}: it has other weights than {run}/config.yaml says are trained")
    unet.load_state_dict(weights, strict=False)
    unet.register_to_config(sample_size=state["jedi"]["unet"]["sample_size"])
    if merge:
        merge_lora(unet)
        unet.requires_grad_(True)
    return unet
