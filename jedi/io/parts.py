"""One way in for the parts of every model: known classes only, all weights or an error, finite, in the dtype asked for.

The one rule for dtypes: whatever they were stored in, parts are loaded in float32. Training keeps them so, the frozen
ones and the trained one (`hardware.precision` is autocast, around the UNet alone); sampling casts the whole pipeline
to `--dtype` after it has been loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from jedi.errors import InputError, first_line
from jedi.io.quiet import quiet
from jedi.io.variants import choose

T = TypeVar("T")


def known_class(library: Any, name: Any, where: str | Path) -> type:
    """A class of diffusers or transformers that stands for a part of a model: network, tokenizer, scheduler, processor.

    A model folder names classes; nothing else may be imported, let alone called, because a folder says so.

    Raises:
        InputError: another library, or no such class there.
    """
    import diffusers
    import transformers

    kinds = (
        diffusers.ModelMixin, diffusers.SchedulerMixin, transformers.PreTrainedModel,
        transformers.PreTrainedTokenizerBase, transformers.FeatureExtractionMixin, transformers.ProcessorMixin,
        transformers.BaseImageProcessor,
    )  # fmt: skip
    if isinstance(library, str) and isinstance(name, str) and name.isidentifier():
        module = {"diffusers": diffusers, "transformers": transformers}.get(library)
        # diffusers' own name for what only some of its pipelines have: ["stable_diffusion", "...SafetyChecker"].
        try:  # both libraries import such names when they are asked for, and not all can be on every machine
            module = module or (getattr(diffusers.pipelines, library, None) if library.isidentifier() else None)
            found = getattr(module, name, None)
        except (ImportError, RuntimeError):
            found = None
        if inspect.isclass(found) and issubclass(found, kinds):
            return found
    raise InputError(f"{where}: {library!r}, {name!r} is not a class of diffusers or transformers for a model part")


def load_part(
    kind: Any, folder: Path, dtype: torch.dtype = torch.float32, unexpected: bool = False, **options: Any
) -> Any:
    """A part from its folder: a network by :func:`load_network` (``options`` are its), anything else as its class does.

    A network's ``variant`` is taken where the folder has it; where it has others only, one of those is
    (:func:`jedi.io.variants.choose`).

    Raises:
        InputError: it cannot be made of what lies there.
    """
    if issubclass(kind, nn.Module):
        chosen = choose([path.name for path in folder.iterdir()], options.pop("variant", None))
        if chosen and chosen[0]:
            options["variant"] = chosen[0]
        return load_network(kind, folder, dtype, unexpected, **options)
    return made(lambda: kind.from_pretrained(folder, local_files_only=True), kind.__name__, folder)


def load_network(
    kind: Any, source: str | Path, dtype: torch.dtype = torch.float32, unexpected: bool = False, **options: Any
) -> Any:
    """A network of diffusers or transformers with all its weights, in evaluation mode.

    From safetensors; a folder of old that has only `.bin` files is read too: both libraries load those by
    `weights_only`, which makes tensors and nothing else of a pickle.

    Names of older versions that the libraries convert, and entries that they know to be needless (`position_ids` of
    old CLIP files), are no fault.

    Args:
        unexpected: whether weights that the network has no place for are passed over: for a network that is a part
            of the one that was saved.

    Raises:
        InputError: weights that are missing, not expected, of another shape or not finite; a network that cannot be
            made of what lies there.
    """
    options |= {"dtype": dtype, "output_loading_info": True}
    if "ignore_mismatched_sizes" in inspect.signature(kind.from_pretrained).parameters:  # transformers: reports them
        options["ignore_mismatched_sizes"] = True
    network, report = made(lambda: kind.from_pretrained(source, **options), kind.__name__, source)
    faults = (
        ("missing", report["missing_keys"]),
        ("of another shape", [key for key, *_ in report["mismatched_keys"]]),
        ("not expected", () if unexpected else report["unexpected_keys"]),
    )
    if found := "; ".join(f"{named(names)} {what}" for what, names in faults if names):
        name = type(network).__name__
        raise InputError(f"{source}: the weights do not fit {name} as config.json describes it: {found}")
    check_finite(network, source)
    return network.eval()


def check_finite(network: nn.Module, source: str | Path) -> None:
    """Raises ``InputError`` that names the weights which hold NaN or infinity."""
    if names := [name for name, value in network.state_dict().items() if not _finite(value)]:
        raise InputError(f"{source}: weights that are not finite (NaN or infinity): {named(names)}; get another copy")


def _finite(value: torch.Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def named(names: Iterable[str], most: int = 3) -> str:
    """The first of these names, and how many there are, for a message."""
    names = sorted(map(str, names))
    return f"{', '.join(names[:most])}{', ...' * (len(names) > most)} ({len(names)} in all)"


def made(make: Callable[[], T], kind: str, source: str | Path) -> T:
    """What a library makes of a user's files. It raises almost anything over them, none of it a fault of ours."""
    try:
        with quiet():
            return make()
    except Exception as error:
        raise InputError(f"{source}: {kind} cannot be loaded: {first_line(error)}") from error
