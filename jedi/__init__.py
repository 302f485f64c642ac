"""JeDi: joint-image diffusion for personalised images without tuning.

Importing this package loads neither torch nor diffusers: the public names below load their module when they
are first used.

Another library on PyPI has the import name `jedi` too: the completion engine that IPython needs. Both work in
one environment: this package's search path goes on into that library's folder (so `jedi.api` and its other
modules are found), and any attribute that is not ours is looked up there.
"""

import importlib
import pkgutil

__version__ = "0.1.0"
__path__ = pkgutil.extend_path(__path__, __name__)

_EXPORTS = {
    "JediPipeline": "jedi.pipeline",
    "JointUNet": "jedi.unet",
    "AttentionMode": "jedi.attention",
    "ATTENTION_MODES": "jedi.attention",
    "ReferenceCache": "jedi.attention",
    "install_joint_attention": "jedi.attention",
    "Guidance": "jedi.guidance",
    "GUIDANCE": "jedi.guidance",
    "NoiseSchedule": "jedi.diffusion",
    "JointLoss": "jedi.loss",
    "joint_loss": "jedi.loss",
}
__all__ = ["__version__", *_EXPORTS]

# Where the other library keeps what its own __init__ offers; the last one is imported for its effect only.
_OTHER_LIBRARY = (
    "jedi.api",
    "jedi.api.environment",
    "jedi.api.project",
    "jedi.api.exceptions",
    "jedi.plugins.registry",
)


def __getattr__(name: str):
    """A public name of ours, one of our modules, or an attribute of the other `jedi` library.

    Raises AttributeError when none of them has it.
    """
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"jedi.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"jedi.{name}":
                raise
        try:
            other = [importlib.import_module(module) for module in _OTHER_LIBRARY]
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith(("jedi.api", "jedi.plugins", "parso")):
                raise
            other = []
        for module in other[:-1]:
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'jedi' has no attribute {name!r}; it offers {', '.join(sorted(__all__))}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
