"""Files of weights by their names: which of those that lie beside one another are read.

diffusers and transformers put a variant's name before the ending (``diffusion_pytorch_model.fp16.safetensors``), older
versions of them behind a shard's number (``model-00001-of-00002.fp16.safetensors``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from jedi.errors import InputError

_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>[\w-]+?))?(?:-\d{5}-of-\d{5})?(?:\.(?P<late>\w+))?\.(?P<kind>safetensors|bin)"
)
_INDEX = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)\.(?P<kind>safetensors|bin)\.index(?:\.\w+)?\.json"
)


def weights(names: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """Names of files -> those that hold weights, by variant ("" is the plain one) and kind, safetensors first."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in names:
        if match := _WEIGHTS.fullmatch(name):
            found.setdefault((match["variant"] or match["late"] or "", match["kind"]), []).append(name)
    return dict(sorted(found.items(), key=lambda x: (x[0][1] != "safetensors", x[0][0])))


def choose(names: Iterable[str], variant: str | None = None) -> tuple[str, str] | None:
    """Variant and kind of the weights to read: ``variant`` where it is there, else the plain ones, else fp16's, else
    what there is; safetensors before pickles. None where there are no weights."""
    found = list(weights(names))
    for wanted in dict.fromkeys([variant or "", "", "fp16"]):
        for key in found:
            if key[0] == wanted:
                return key
    return found[0] if found else None


def needed(names: Iterable[str], variant: str | None = None) -> list[str]:
    """Of the files of one part, those to fetch: the chosen weights, and all that is no weights of another form."""
    names = list(names)
    chosen, found = choose(names, variant), weights(names)
    kind = chosen[1] if chosen else None
    others = [
        name
        for name in names
        if name.endswith((".json", ".txt", ".model"))
        and ((match := _INDEX.fullmatch(name)) is None or match["kind"] == kind)
    ]
    return [*others, *(found[chosen] if chosen else ())]


def check_variant(variant: str | None, parts: Iterable[Iterable[str]], source: str) -> None:
    """Raises ``InputError`` unless a part's files hold the variant that was asked for."""
    there = {name for files in parts for name, _ in weights(files)}
    if variant and variant not in there:
        named = ", ".join(sorted(name or "the plain one" for name in there))
        raise InputError(f"{source} has no weights of variant {variant}; there: {named or 'none'}")
