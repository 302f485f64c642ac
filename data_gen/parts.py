"""What sources, stages and filters have in common: named classes that bring a dataclass with their settings."""

from __future__ import annotations

import importlib
import pkgutil
import types
from collections.abc import Sequence
from typing import Any, ClassVar

from data_gen.context import Context

MODELS = ("diffusers", "torch", "transformers")


def import_modules(package: types.ModuleType) -> None:
    """Imports all modules of a package: those with parts register them."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


class Part:
    """Made once in each process, as `Class(settings, context)`. Models are loaded when they are first needed, not
    before: `plan` makes parts too.

    Raise `jedi.io.config.ConfigError` for mistakes of the user.
    """

    Settings: ClassVar[type | None] = None
    """The dataclass of the configuration's section that is called as the part; every field has a default. None: the
    part has no section, and gets None for its settings."""
    thresholds: ClassVar[Sequence[tuple[str, str]]] = ()
    """For the report: scores and the section's keys of their thresholds, `(("redness", "max_share"),)`. A key's last
    part begins with min or max, or its value is the least and the most. "NAME.PART" is a part of a score that is a
    dict; "NAME.mean" the mean of a list, where that is compared and not each image's."""
    uses_model: bool = True
    """Whether a device is of use; where no part wants one there is a process a core."""
    packages: Sequence[str] | None = None
    """What must stay at one version for equal bytes, besides numpy and Pillow; None: `MODELS` where a model is used."""

    def __init__(self, settings: Any, context: Context) -> None:
        self.settings, self.context = settings, context

    @classmethod
    def section(cls) -> type | None:
        """The dataclass of the part's section: `Settings`, unless other registered parts decide what is in it."""
        return cls.Settings

    @property
    def needed_packages(self) -> Sequence[str]:
        """`packages`, or what they are where nothing is said."""
        return self.packages if self.packages is not None else MODELS if self.uses_model else ()

    def inputs(self) -> dict[str, str]:
        """sha256 of what outside of the configuration decides the sets, by name: the prompts, the photos of a folder.
        Frozen in the plan; a run that finds others is refused. Models are known by their names alone."""
        return {}

    def left_out(self) -> dict[str, int]:
        """Files among what is read that are not used: their number by reason."""
        return {}
