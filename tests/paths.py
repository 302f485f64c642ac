"""Where the tests find what is not theirs."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""
DREAMBOOTH = ROOT.parent / "shared" / "dreambooth"
"""The photographs of DreamBench, which are not part of the project."""
needs_dreambooth = pytest.mark.skipif(not DREAMBOOTH.is_dir(), reason="../shared/dreambooth is not there")
