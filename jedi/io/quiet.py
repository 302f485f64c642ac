"""What diffusers and transformers say while they work."""

from __future__ import annotations

import contextlib
import logging


def quiet(level: int = logging.CRITICAL) -> contextlib.ExitStack:
    """Nothing below ``level``, and no progress bars, of diffusers and transformers (which this loads).

    From this call on; ``with quiet():`` to the end of the block. diffusers logs a missing file as an error, and then
    raises one: where files are loaded our errors say what is wrong.
    """
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    undo = contextlib.ExitStack()
    for library in (of_diffusers, of_transformers):
        undo.callback(library.set_verbosity, library.get_verbosity())
        if library.is_progress_bar_enabled():
            undo.callback(library.enable_progress_bar)
        library.set_verbosity(level)
        library.disable_progress_bar()
    return undo
