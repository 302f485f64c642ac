"""What is given: draws by step and by set, boxes, the network's input."""

import pytest
import torch

from jedi.conditioning import ConditioningConfig, StepPlan, draw_box, draw_sets, draw_step, network_input
from jedi.rng import keyed_generator

SHAPE = (4, 3, 8, 8)


def share(values):
    values = list(values)
    return sum(values) / len(values)


def test_a_step_is_a_pure_function_of_seed_and_number():
    config = ConditioningConfig()
    assert [draw_step(3, i, 4, config) for i in range(20)] == [draw_step(3, i, 4, config) for i in range(20)]
    assert [draw_step(3, i, 4, config) for i in range(20)] != [draw_step(4, i, 4, config) for i in range(20)]


def test_steps_follow_the_probabilities():
    plans = [draw_step(0, i, 4, ConditioningConfig(mutual_prob=0.3, drop_references_prob=0.1)) for i in range(3000)]
    for k in range(4):
        assert share(p.num_references == k for p in plans) == pytest.approx(0.25, abs=0.03)
    assert share(p.mode == "mutual" for p in plans) == pytest.approx(0.3, abs=0.03)
    assert share(p.drop_references for p in plans if p.num_references) == pytest.approx(0.1, abs=0.03)
    assert not any(p.drop_references for p in plans if p.num_references == 0)
    weighted = [draw_step(0, i, 4, ConditioningConfig(reference_weights=[0, 3, 1, 0])) for i in range(2000)]
    assert {p.num_references for p in weighted} == {1, 2}
    assert share(p.num_references == 1 for p in weighted) == pytest.approx(0.75, abs=0.03)


def test_k_stays_below_the_set_size():
    config = ConditioningConfig(reference_weights=[1, 1, 1, 1])
    assert {draw_step(0, i, 2, config).num_references for i in range(50)} == {0, 1}
    assert {draw_step(0, i, 1, config).num_references for i in range(50)} == {0}
    with pytest.raises(ValueError, match="leave no k below the set size n = 2"):
        draw_step(0, 0, 2, ConditioningConfig(reference_weights=[0, 0, 1]))


def test_set_draws_belong_to_positions_not_to_batches():
    plan, config = StepPlan(2, "one_way"), ConditioningConfig()
    whole = draw_sets(0, [5, 6, 7, 8], plan, SHAPE, 1000, config)
    halves = [draw_sets(0, positions, plan, SHAPE, 1000, config) for positions in ([5, 6], [7, 8])]
    for name in ("timestep", "noise", "mask", "drop_caption"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(half, name) for half in halves])), name
    assert len(set(whole.timestep.tolist())) > 1 and not torch.equal(whole.noise[0], whole.noise[1])


def test_references_are_given_and_targets_keep_free_pixels():
    config = ConditioningConfig(partly_given_prob=1.0, min_free=0.1)
    mask = draw_sets(0, range(200), StepPlan(2, "mutual"), SHAPE, 1000, config).mask
    assert mask.shape == (200, 4, 1, 8, 8) and mask[:, :2].sum() == 0
    free = mask[:, 2:].flatten(2).mean(-1)
    assert free.min() >= 0.1 and (free < 1).float().mean() > 0.5
    none = draw_sets(0, range(9), StepPlan(1, "mutual"), SHAPE, 1000, ConditioningConfig(partly_given_prob=0.0)).mask
    assert (none[:, 1:] == 1).all()


def test_captions_are_dropped_by_role():
    config = ConditioningConfig(drop_target_caption_prob=0.1, drop_reference_caption_prob=0.5)
    drop = draw_sets(0, range(800), StepPlan(2, "one_way"), SHAPE, 1000, config).drop_caption.float()
    assert drop[:, :2].mean() == pytest.approx(0.5, abs=0.04) and drop[:, 2:].mean() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(("h", "w", "min_free"), [(8, 8, 0.1), (3, 5, 0.25), (1, 1, 0.1), (8, 16, 1.0)])
def test_boxes_keep_their_promise(h, w, min_free):
    generator = keyed_generator(0, "boxes")
    shares = torch.stack([draw_box(h, w, min_free, generator).mean() for _ in range(500)])
    assert shares.min() >= min_free - 1e-6


def test_network_input_layout_and_polarity():
    noisy, given = torch.full((1, 2, 3, 2, 2), 7.0), torch.full((1, 2, 3, 2, 2), 5.0)
    mask = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1, 1).expand(1, 2, 1, 2, 2)
    out = network_input(noisy, mask, given)
    assert out.shape == (1, 2, 7, 2, 2)
    assert out[0, 0, :, 0, 0].tolist() == [7, 7, 7, 0, 5, 5, 5]  # given: shown
    assert out[0, 1, :, 0, 0].tolist() == [7, 7, 7, 1, 0, 0, 0]  # to be generated: hidden


def test_weights_of_nothing_are_refused():
    with pytest.raises(ValueError, match="conditioning.reference_weights"):
        ConditioningConfig(reference_weights=[0, 0])
