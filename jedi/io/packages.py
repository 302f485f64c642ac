"""Packages that only some settings need."""

from __future__ import annotations

import importlib.util

from jedi.io.config import ConfigError


def need(package: str, what: str, extra: str) -> None:
    """Raises ``ConfigError`` where a package that ``what`` needs is not installed; ``extra`` of ours installs it."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{what} needs {package}, which is not installed: pip install 'jedi-diffusion[{extra}]'")
