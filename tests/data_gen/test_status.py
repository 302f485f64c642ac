"""How far it is: counts from the manifests, and the pace from when they were written."""

import json
import os

import pytest

from data_gen import plan, run
from data_gen.status import status
from tests.data_gen.conftest import small_config


@pytest.fixture(scope="module")
def half_done(tmp_path_factory):
    """The first 8 of 12 units of 2 sets of 4 images."""
    config = small_config(tmp_path_factory.mktemp("status"), sets=24, heldout_sets=0, sets_per_unit=2)
    frozen = run.prepare(config)
    run.make_units(config, frozen, frozen.units[:8])
    return config


def written(config, times, seconds):
    """Sets when the manifests were written, and what the units took."""
    frozen = plan.read_plan(config)
    for unit, time in zip(frozen.units, times, strict=False):
        os.utime(frozen.tar(unit).with_suffix(".json"), (time, time))
        (frozen.out / "logs" / f"{unit.name}.json").write_text(json.dumps({"seconds": {"source": seconds}}))
    return status(config, frozen)


@pytest.mark.parametrize(
    ("times", "pace"),
    [
        ([0, 10, 20, 30, 40, 50, 60, 70], 10),  # one process
        ([0, 0.1, 10, 10.1, 20, 20.1, 30, 30.1], 30.1 / 7),  # two that began together
        ([0, 10, 20, 30, 5000, 5010, 5020, 5030], 10),  # one, with a pause
        ([7, 7, 7, 7, 7, 7, 7, 7], None),  # a copy that lost its times
    ],
)
def test_the_pace_is_that_of_all_processes_without_pauses(half_done, times, pace):
    state = written(half_done, [1e9 + time for time in times], 9.9)
    assert (state.units, state.done, state.sets, state.images) == (12, 8, 16, 64)
    if pace is None:
        assert (state.rate, state.seconds_left) == (None, None)
    else:
        assert state.rate == pytest.approx(8 / pace) and state.seconds_left == pytest.approx(4 * pace)
        assert f"{8 / pace:.1f} images/s, about 0:00:{round(4 * pace):02d} left" in "\n".join(state.lines())


def test_without_logs_every_gap_counts(half_done):
    written(half_done, [1e9 + time for time in (0, 10, 20, 30, 5000, 5010, 5020, 5030)], 9.9)
    frozen = plan.read_plan(half_done)
    for path in (frozen.out / "logs").glob("*.json"):
        path.unlink()
    assert status(half_done, frozen).rate == pytest.approx(64 / 8 / (5030 / 7))
