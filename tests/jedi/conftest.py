"""Fixtures of the sampling tests."""

import pytest

from jedi.pipeline import JediPipeline
from tests import tiny


@pytest.fixture(scope="session")
def parts() -> dict:
    """Components of a joint model with random weights. Read only: tests that change one copy it."""
    return tiny.components(in_channels=2 * tiny.LATENT_CHANNELS + 1)


@pytest.fixture
def pipe(parts) -> JediPipeline:
    """A silent pipeline of ``parts`` that knows both modes."""
    pipe = JediPipeline(**parts, trained_modes=["one_way", "mutual"], max_trained_references=3)
    pipe.set_progress_bar_config(disable=True)
    return pipe
