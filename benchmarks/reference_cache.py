"""What does the reference cache save? Denoising steps a second with it, without it, and in mode `mutual`.

    python -m benchmarks.reference_cache --model models/jedi-tiny --references 3

The work is a whole sampling run of the UNet (two guidance branches, as in the pipeline) without text encoder
and VAE. `cached` pays for encoding the references once a run; `uncached` is the same mode with the references
in every step; `mutual` can have no cache. `cached` and `uncached` must predict the same: checked first.
"""

import argparse
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel

from benchmarks.timing import measure, report
from jedi.io.devices import find_device
from jedi.text import EncodedText
from jedi.unet import JointUNet


def network(model: str | None, device: str) -> JointUNet:
    """The UNet of a model folder, or without one a small UNet with random weights."""
    if model:
        return JointUNet(UNet2DConditionModel.from_pretrained(model, subfolder="unet")).to(device).eval()
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=9, out_channels=4, cross_attention_dim=64, attention_head_dim=4,
        block_out_channels=(64, 128), layers_per_block=1, norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip
    return JointUNet(unet).to(device).eval()


def ways(unet: JointUNet, references: int, images: int, steps: int, tokens: int) -> dict[str, Callable]:
    """A sampling run in three ways; each returns its last prediction for the targets, [2 b 1 c h w]."""
    config, device, sets = unet.unet.config, unet.unet.device, 2 * images
    side = config.sample_size
    given = torch.randn(1, references, config.in_channels, side, side, device=device)
    target = torch.randn(sets, 1, config.in_channels, side, side, device=device)
    text = EncodedText(torch.randn(sets, 1, tokens, config.cross_attention_dim, device=device))
    reference_text = EncodedText(torch.randn(1, references, tokens, config.cross_attention_dim, device=device))
    whole = torch.cat([given.expand(sets, -1, -1, -1, -1), target], dim=1)
    whole_text = EncodedText.cat([reference_text.expand(sets, references), text], dim=1)
    times = torch.linspace(999, 0, steps, device=device).long().tolist()

    def at(t: int) -> torch.Tensor:
        return torch.full((sets,), t, device=device)

    def cached() -> torch.Tensor:
        cache = unet.encode_references(given, reference_text)
        return [unet(target, at(t), text, cache=cache) for t in times][-1]

    def together(mode: str) -> torch.Tensor:
        return [unet(whole, at(t), whole_text, references, mode) for t in times][-1][:, references:]

    return {"cached": cached, "uncached": lambda: together("one_way"), "mutual": lambda: together("mutual")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder; without it, random weights at a small size")
    parser.add_argument("--references", type=int, default=3)
    parser.add_argument("--images", type=int, default=1, help="images made at once")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=40, help="length of a caption")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default=find_device(None))
    options = parser.parse_args()
    torch.manual_seed(0)
    with torch.no_grad():
        runs = ways(
            network(options.model, options.device),
            options.references, options.images, options.steps, options.tokens,
        )  # fmt: skip
        torch.testing.assert_close(runs["cached"](), runs["uncached"](), atol=1e-3, rtol=1e-3)
        seconds = measure(runs, options.repeats)
    size = f"{options.references} references, {options.images} images, {options.steps} steps"
    print(f"{size}, {options.device}")
    report(seconds, options.steps, "steps", "cached")


if __name__ == "__main__":
    main()
