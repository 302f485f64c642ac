"""The small base's VAE: principal components, an encoder that is exactly these, losses, training."""

import pytest
import torch
from einops import rearrange
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from jedi.io.config import ConfigError
from jedi_toy.tiny_base.config import VaeConfig
from jedi_toy.tiny_base.vae import draw, gradient_loss, make_vae, patch_components, psnr, train_vae, write_encoder


def test_components_are_those_of_pca():
    images = torch.rand(8, 3, 16, 16) * 2 - 1
    images[:, :, ::2] += 1  # something to find
    for whitening in (0.0, 1.0):
        mean, projection = patch_components(images, 4, 5, whitening)
        assert mean.shape == (48,) and projection.shape == (48, 5)
        patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 48)
        latents = (patches - mean) @ projection
        torch.testing.assert_close(latents.std(), torch.tensor(1.0), rtol=1e-3, atol=1e-3)
        spread = latents.std(0)
        assert (spread[:-1] >= spread[1:] - 1e-4).all()  # from the largest component down
        assert (spread.max() / spread.min() < 1.01) == (whitening == 1.0)
        correlation = torch.corrcoef(latents.T) - torch.eye(5)
        assert correlation.abs().max() < 1e-3


@pytest.mark.slow
def test_vae_learns_to_show_the_image(caplog):
    caplog.set_level("INFO", "jedi_toy.tiny_base.vae")
    torch.manual_seed(0)
    images = adaptive_avg_pool2d(torch.rand(32, 3, 4, 4) * 2 - 1, 16)
    config = VaeConfig(block_out_channels=[8, 16], latent_channels=4, steps=80, batch_size=8, learning_rate=1e-2)
    vae = train_vae(images, config, seed=0)
    unseen = images[-2:]
    with torch.no_grad():
        shown = psnr(vae.decode(vae.encode(unseen).latent_dist.mean).sample, unseen)
    assert f"VAE: {shown:.1f} dB on unseen images" in caplog.text
    latents = vae.encode(images).latent_dist
    assert latents.mean.shape == (32, 4, 8, 8) and latents.std.max() < 1e-4  # as good as deterministic
    assert (
        psnr(vae.decode(latents.mean).sample, images) > psnr(images.mean((0, 2, 3), True).expand_as(images), images) + 3
    )
    assert (latents.mean * vae.config.scaling_factor).std() == pytest.approx(1, abs=0.2)


def components(images, config: VaeConfig, mean, projection):
    factor = 2 ** (len(config.block_out_channels) - 1)
    patches = rearrange(images, "i c (h f) (w g) -> i h w (c f g)", f=factor, g=factor)
    return rearrange((patches - mean) @ projection, "i h w c -> i c h w")


@pytest.mark.parametrize(("widths", "channels"), [([16, 24, 48], 7), ([32, 64, 56, 64], 16), ([16, 32], 3)])
def test_a_linear_encoder_gives_the_principal_components(widths, channels):
    torch.manual_seed(0)
    config = VaeConfig(widths, channels, linear_encoder=True)
    factor = 2 ** (len(widths) - 1)
    images = avg_pool2d(torch.rand(6, 3, 66, 66) * 2 - 1, 3, 1)
    vae = make_vae(config, 64).eval()
    mean, projection = patch_components(images, factor, channels, 0.5)
    write_encoder(vae, mean, projection)
    wanted = components(images, config, mean, projection)
    with torch.no_grad():
        found = vae.encode(images).latent_dist
        torch.testing.assert_close(found.mean, wanted, rtol=0, atol=0.01)
        assert found.std.max() < 1e-4
        rough = vae.to(torch.bfloat16).encode(images.to(torch.bfloat16)).latent_dist.mean
        torch.testing.assert_close(rough.float(), wanted, rtol=0, atol=0.1)


def test_a_linear_encoder_wants_room():
    vae = make_vae(VaeConfig([8, 8, 8], 4), 16)
    with pytest.raises(
        ConfigError, match=r"block_out_channels are \[8, 8, 8\]; vae.linear_encoder needs \[13, 13, 32\]"
    ):
        write_encoder(vae, torch.zeros(48), torch.zeros(48, 4))


def test_with_a_linear_encoder_only_the_decoder_is_trained():
    torch.manual_seed(0)
    images = adaptive_avg_pool2d(torch.rand(32, 3, 4, 4) * 2 - 1, 16)
    settings = {"linear_encoder": True, "batch_size": 8, "learning_rate": 1e-2, "crop": 8, "gradient": 0.5}
    trained = [train_vae(images, VaeConfig([16, 32], 4, steps=steps, **settings), seed=0) for steps in (5, 25)]
    with torch.no_grad():
        latents = [vae.encode(images).latent_dist.mean for vae in trained]
        shown = [psnr(vae.decode(latents[0]).sample, images) for vae in trained]
    assert torch.equal(*latents)  # so the decoder can be trained on under a UNet that knows these latents
    assert shown[1] > shown[0] + 1


def test_crops_are_squares_of_the_images_and_whole_ones_are_fewer():
    images = torch.arange(2 * 3 * 8 * 8.0).reshape(2, 3, 8, 8)
    config, generator = VaeConfig(batch_size=8, crop=4), torch.Generator().manual_seed(0)
    crops = draw(images, config, 4, generator)
    assert crops.shape == (8, 3, 4, 4)
    for crop in crops:
        assert any(
            torch.equal(crop, window)
            for image in images
            for window in image.unfold(1, 4, 1).unfold(2, 4, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 4, 4)
        )
    assert draw(images, config, 0, generator).shape == (2, 3, 8, 8)
    assert draw(images, VaeConfig(batch_size=8), 0, generator).shape == (8, 3, 8, 8)
    with pytest.raises(ConfigError, match=r"vae\.crop is 3; expected a multiple of the patches' 2 pixels"):
        train_vae(images, VaeConfig([8, 16], 4, crop=3, steps=1), seed=0)


def test_the_gradient_loss_sees_lines_not_levels():
    images = torch.zeros(1, 3, 8, 8)
    line = images.clone()
    line[..., 4] = 1
    assert gradient_loss(images + 0.5, images) == 0
    assert gradient_loss(line, images) > 4 * gradient_loss(avg_pool2d(line, 3, 1, 1), images) / 3
