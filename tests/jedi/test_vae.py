"""The VAE in half precision: an overflow is found, said, and made good."""

import pytest
import torch

from jedi import vae as module
from jedi.vae import decode_latents, encode_pixels


@pytest.fixture
def overflowing(tiny_components):
    """The tiny VAE with activations of more than float16 holds at both ends, which the end makes small again."""
    vae = tiny_components["vae"]
    for part in (vae.encoder, vae.decoder):
        part.conv_in.weight.data *= 2e5
    return vae


@pytest.mark.parametrize("work", [encode_pixels, decode_latents])
def test_an_overflow_in_float16_is_made_good_in_float32(overflowing, monkeypatch, work):
    said = []
    monkeypatch.setattr(module.logger, "warning", said.append)
    x = torch.randn(1, 3, 32, 32) if work is encode_pixels else torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        expected = work(overflowing, x)
        found = work(overflowing.half(), x)
    assert len(said) == 1 and "madebyollin/sdxl-vae-fp16-fix" in said[0]
    assert overflowing.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_a_vae_that_fits_stays_in_float16(tiny_components, monkeypatch):
    monkeypatch.setattr(module.logger, "warning", None)
    vae = tiny_components["vae"].half()
    with torch.no_grad():
        assert encode_pixels(vae, torch.randn(1, 3, 32, 32)).dtype == torch.float16
