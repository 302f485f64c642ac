"""The small data set of the data engine's tests serves those of the toy world too."""

from tests.data_gen.conftest import small  # noqa: F401
