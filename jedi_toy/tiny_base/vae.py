"""The small base's VAE (``python -m jedi_toy.tiny_base``), its latents chosen for diffusion at that scale.

They imitate the first principal components of f x f pixel patches (smooth, ordered from colour to detail, so that a
small UNet learns to copy colours and shapes early), and the decoder learns to turn them into sharp images. With
``linear_encoder`` they *are* these components: the encoder's weights are written, not trained. Then a latent pixel
depends on its own patch alone, no image is unlike those that it was trained on, and the decoder can be trained on
at any time under a UNet that is trained already.
"""

from __future__ import annotations

import logging
from itertools import product

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor

from jedi.io.config import ConfigError
from jedi.rng import keyed_generator
from jedi_toy.fit import fit
from jedi_toy.tiny_base.config import VaeConfig

log = logging.getLogger(__name__)


def patch_components(images: Tensor, factor: int, channels: int, whitening: float) -> tuple[Tensor, Tensor]:
    """Mean ``[p]`` and projection ``[p c]`` of the pixel patches' first ``c`` principal components, ``p = 3 f f``.

    ``images`` ``[i 3 H W]``. Projected patches have overall standard deviation 1; ``whitening`` evens out the channels.
    """
    patches = rearrange(images, "i c (h f) (w g) -> (i h w) (c f g)", f=factor, g=factor)
    mean = patches.mean(0)
    _, basis = torch.linalg.eigh((patches - mean).T @ (patches - mean))  # ascending eigenvalues
    basis = basis.flip(1)[:, :channels]
    basis = basis / ((patches - mean) @ basis).std(0) ** whitening
    return mean, basis / ((patches - mean) @ basis).std()


def train_vae(images: Tensor, config: VaeConfig, seed: int) -> AutoencoderKL:
    """Encoder towards the principal components, decoder towards the images. ``images`` ``[i 3 H W]`` in [-1, 1].

    The last sixteenth of the images is kept out; how well they are shown is logged. ConfigError where the
    configuration does not fit together.
    """
    check = max(1, len(images) // 16)
    images, unseen = images[:-check], images[-check:]
    factor = 2 ** (len(config.block_out_channels) - 1)
    if config.crop % factor:
        raise ConfigError(f"vae.crop is {config.crop}; expected a multiple of the patches' {factor} pixels")
    vae = make_vae(config, images.shape[-1])
    generator = keyed_generator(seed, "vae")
    sample = images[torch.randperm(len(images), generator=generator)[:1024]]
    mean, projection = patch_components(sample, factor, config.latent_channels, config.whitening)
    if config.linear_encoder:
        write_encoder(vae, mean, projection)
        vae.encoder.requires_grad_(False)

    def loss(step: int) -> tuple[Tensor, str]:
        batch = draw(images, config, 0 if step >= 0.8 * config.steps else config.crop, generator)
        patches = rearrange(batch, "b c (h f) (w g) -> b h w (c f g)", f=factor, g=factor)
        wanted = rearrange((patches - mean) @ projection, "b h w c -> b c h w")
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            latents = wanted if config.linear_encoder else vae.encode(batch).latent_dist.mean.float()
            noise = torch.randn(latents.shape, generator=generator) * config.latent_noise
            decoded = vae.decode(latents + noise).sample.float()
        total = F.mse_loss(latents, wanted) + F.mse_loss(decoded, batch) + 0.5 * F.l1_loss(decoded, batch)
        if config.gradient:
            total = total + config.gradient * gradient_loss(decoded, batch)
        return total, f"{psnr(decoded.detach(), batch):.1f} dB"

    fit("VAE", {"vae": vae}, loss, config.steps, config.learning_rate)
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1 / float(vae.encode(sample[:256]).latent_dist.mean.std()))
    decoded = torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample for part in unseen.split(64)])
    log.info("VAE: %.1f dB on unseen images", psnr(decoded, unseen))
    return vae


def make_vae(config: VaeConfig, side: int) -> AutoencoderKL:
    """An untrained AutoencoderKL for images of ``side`` pixels, as good as deterministic."""
    levels = len(config.block_out_channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(config.block_out_channels),
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=8,
        sample_size=side,
        mid_block_add_attention=False,
    )
    with torch.no_grad():  # the posterior's log-variance is not trained
        vae.quant_conv.weight[config.latent_channels :] = 0
        vae.quant_conv.bias[config.latent_channels :] = -30
    return vae


@torch.no_grad()
def write_encoder(vae: AutoencoderKL, mean: Tensor, projection: Tensor) -> None:
    """Sets the encoder's weights so that it computes ``(patch - mean) @ projection``: to a part in a thousand.

    Each downsampling moves 2 x 2 pixels into channels, the last one projects; the residual branches add nothing. Before
    its last convolution the encoder normalises groups of channels, then applies SiLU. Groups that hold ``x``, ``-x``
    and two large constants of opposite sign have mean 0 and a known deviation, and ``silu(x) - silu(-x) = x``.

    Raises:
        ConfigError: ``block_out_channels`` are too narrow for that.
    """
    encoder, widths, latent_channels = vae.encoder, vae.config.block_out_channels, projection.shape[1]
    levels, constant = len(widths) - 1, 100.0
    in_group = widths[-1] // encoder.conv_norm_out.num_groups
    least = [3 * 4 ** (i + 1) + 1 for i in range(levels - 1)]
    least.append(max([*least[-1:], latent_channels + 1]))
    least.append(encoder.conv_norm_out.num_groups * 2 * (1 + -(-latent_channels // encoder.conv_norm_out.num_groups)))
    if any(width < wanted for width, wanted in zip(widths, least, strict=True)) or widths[-1] == widths[-2]:
        raise ConfigError(
            f"vae.block_out_channels are {list(widths)}; vae.linear_encoder needs {least} or more, the last two unequal"
        )
    for name, module in encoder.named_modules():
        if name.endswith(("conv2", "conv_in", "downsamplers.0.conv", "conv_shortcut", "conv_out")):
            module.weight.zero_()
            module.bias.zero_()
        if name.endswith("conv_shortcut"):
            width = min(module.weight.shape[:2])
            module.weight[:width, :width, 0, 0] = torch.eye(width)
    encoder.conv_in.weight[:3, :, 1, 1] = torch.eye(3)
    encoder.conv_in.bias[3] = constant
    of_pixel = {(colour, 0, 0): colour for colour in range(3)}  # channel of (colour, row, column) within a patch
    for level in range(levels):
        conv = encoder.down_blocks[level].downsamplers[0].conv
        moved = {
            (colour, y + dy * 2**level, x + dx * 2**level): (channel, dy, dx)
            for (colour, y, x), channel in of_pixel.items()
            for dy, dx in product(range(2), range(2))
        }
        last = len(of_pixel)  # the channel of the constant
        if level < levels - 1:
            of_pixel = {pixel: i for i, pixel in enumerate(moved)}
            for pixel, (channel, dy, dx) in moved.items():
                conv.weight[of_pixel[pixel], channel, dy, dx] = 1
            conv.weight[len(of_pixel), last, 0, 0] = 1
        else:
            factor = 2**levels
            for (colour, y, x), (channel, dy, dx) in moved.items():
                conv.weight[:latent_channels, channel, dy, dx] = projection[(colour * factor + y) * factor + x]
            conv.bias[:latent_channels] = -mean @ projection
            conv.weight[latent_channels, last, 0, 0] = 1
    shortcut = encoder.down_blocks[levels].resnets[0].conv_shortcut
    shortcut.weight.zero_()
    for i in range(latent_channels):
        group, place = i % encoder.conv_norm_out.num_groups, i // encoder.conv_norm_out.num_groups
        for sign in (0, 1):
            channel = group * in_group + 2 * place + sign
            shortcut.weight[channel, i] = 1 - 2 * sign
            encoder.conv_out.weight[i, channel, 1, 1] = 1 - 2 * sign
    for group in range(encoder.conv_norm_out.num_groups):
        for sign in (0, 1):
            shortcut.weight[(group + 1) * in_group - 1 - sign, latent_channels] = 1 - 2 * sign
    encoder.conv_norm_out.weight.fill_(constant * (2 / in_group) ** 0.5)
    encoder.conv_norm_out.bias.zero_()
    vae.quant_conv.weight[:latent_channels] = torch.eye(2 * latent_channels)[:latent_channels, :, None, None]
    vae.quant_conv.bias[:latent_channels] = 0


def draw(images: Tensor, config: VaeConfig, crop: int, generator: torch.Generator) -> Tensor:
    """A batch of whole images ``[b 3 H W]``, or of squares out of them ``[b 3 crop crop]``.

    Where training crops at all, a batch of whole images holds fewer of them: as many pixels, one image at least.
    """
    side, count = images.shape[-1], config.batch_size
    if config.crop and not crop:
        count = max(1, count * config.crop**2 // side**2)
    chosen = torch.randint(len(images), (count,), generator=generator)
    if not crop:
        return images[chosen]
    corners = torch.randint(side - crop + 1, (count, 2), generator=generator).tolist()
    return torch.stack([images[i, :, y : y + crop, x : x + crop] for i, (y, x) in zip(chosen, corners, strict=True)])


def gradient_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbouring pixels, at full and at half size. ``[b 3 H W]``."""
    total = decoded.new_zeros(())
    for _ in range(2):
        error = decoded - images
        total = total + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        decoded, images = F.avg_pool2d(decoded, 2), F.avg_pool2d(images, 2)
    return total / 2


def psnr(decoded: Tensor, images: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]."""
    return float(10 * torch.log10(4 / F.mse_loss(decoded.clamp(-1, 1), images)))
