"""Bases whose parts do not belong together are refused."""

import pytest
from diffusers import UNet2DConditionModel

from jedi.io.base import load_base
from tests import tiny


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cross_attention_dim": 48}, "the unet reads text of width 48, the text_encoder gives 32"),
        ({"out_channels": 6}, "the unet makes latents of 6 channels, the vae gives 4"),
    ],
)
def test_parts_that_do_not_fit_one_another(tiny_components, tmp_path, changes, message):
    unet = UNet2DConditionModel.from_config(tiny_components["unet"].config, **changes)
    base = tiny.save_base(tiny_components | {"unet": unet}, tmp_path / "base")
    with pytest.raises(ValueError, match=f"base .*base: {message}"):
        load_base(base)
