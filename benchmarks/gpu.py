"""What a GPU does with JeDi, in one command of a few minutes: kernels, training steps, sampling; one JSON.

    python -m benchmarks.gpu --out gpu.json                          (Stable Diffusion 1.5 and SD-XL, at true width)
    python -m benchmarks.gpu --device cpu --tiny --out tiny.json     (the same on small UNets: does the script run?)
    python -m benchmarks.gpu --device cpu --models sd15 --recipes lora --parts train sample --batch 1 --pixels 256 \\
        --steps 4 --references 1 --out sd15.json                     (true width on a CPU)

Weights are random: what is measured is cost. `kernels` compares every attention mode, back end and dtype with float32
on the CPU. `frozen` runs the text encoders and the VAE on one caption and image. `sample` times the UNet's calls of a
run with two guidance branches, references encoded once, beside a stock UNet. `train` takes whole steps (noise, forward,
backward, optimiser) of sets of 4 images, 2 of them references, in bf16-mixed; `mfu` counts 3 times the forward pass (2
with LoRA), not what gradient checkpointing repeats. `memory_gb` is the measurement's own on a GPU; on a CPU it is the
peak of the process until then, so give it one row. Each measurement is written when it is there; one that fails, or for
which no time is left, says so.
"""

import argparse
import gc
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks import reference_cache
from benchmarks.timing import measure
from jedi.attention import ATTENTION_BACKENDS, ATTENTION_MODES, check_backend
from jedi.conditioning import ConditioningConfig, StepPlan, draw_sets
from jedi.diffusion import NoiseSchedule
from jedi.io.devices import find_device
from jedi.io.files import write_json
from jedi.loss import joint_loss
from jedi.text import EncodedText
from jedi.training.config import LoraSettings, NetworkConfig, OptimizerConfig, TrainConfig, TrainDataConfig
from jedi.training.optimizer import make_optimizer
from jedi.training.trained import make_unet
from jedi.unet import JointUNet
from jedi.vae import decode_latents, encode_pixels

SD15 = {"sample_size": 64, "cross_attention_dim": 768}
SDXL = {
    "sample_size": 128, "cross_attention_dim": 2048, "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
TINY = {"sample_size": 8, "block_out_channels": (32, 64), "norm_num_groups": 8, "layers_per_block": 1}
MODELS = {"sd15": SD15, "sdxl": SDXL}
RECIPES: dict[str, dict[str, Any]] = {
    "full": {},
    "full, gradient checkpointing": {"gradient_checkpointing": True},
    "full, gradient checkpointing, adamw_8bit": {"gradient_checkpointing": True, "optimizer": "adamw_8bit"},
    "lora": {"rank": 64},
    "lora, gradient checkpointing": {"rank": 64, "gradient_checkpointing": True},
}
BATCH = {"sd15": 8, "sdxl": 2}
"""Sets of a pass."""
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""FLOP/s in bf16 by the name of the GPU, dense (NVIDIA's data sheets)."""
PARTS = ("kernels", "frozen", "sample", "train")
N, K = 4, 2


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    device = torch.device(find_device(arguments.device))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "command": " ".join(sys.argv[1:])}
    results |= {"tiny": arguments.tiny, "threads": torch.get_num_threads(), "measurements": []}
    end = time.monotonic() + arguments.seconds
    for label, work in plan(arguments, device):
        gc.collect()  # of the one before
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        row: dict[str, Any] = {"name": label}
        if time.monotonic() > end:
            row["skipped"] = f"no time left of {arguments.seconds} s"
        else:
            try:
                row |= work()
            except Exception as error:  # one that fails must not cost the others
                row["error"] = f"{type(error).__name__}: {str(error).splitlines()[:1]}"
        print(label, {key: value for key, value in row.items() if key != "name"}, flush=True)
        results["measurements"].append(row)
        write_json(Path(arguments.out), results)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="the JSON file to write")
    parser.add_argument("--device", default=None)
    parser.add_argument("--tiny", action="store_true", help="small UNets in place of the true ones")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--references", nargs="+", type=int, default=[0, 1, 3, 8])
    parser.add_argument("--pixels", type=int, help="side of the images; by default the model's own")
    parser.add_argument("--batch", type=int, help="sets of a training pass; by default by the model")
    parser.add_argument("--steps", type=int, default=20, help="of a sampling run")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of sampling; by default by the device")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=480, help="no measurement begins after that")
    return parser.parse_args(argv)


def plan(arguments: argparse.Namespace, device: torch.device) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """All measurements by name, the quick ones first."""
    found: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    if "kernels" in arguments.parts:
        found += [
            (f"kernels {mode} {backend} {dtype}", lambda x=(mode, backend, dtype): kernels(*x, device))
            for mode in ATTENTION_MODES
            for backend in ATTENTION_BACKENDS
            for dtype in ("float32", "bfloat16", "float16")
        ]
    for part, work in (("frozen", frozen), ("sample", sample)):
        if part in arguments.parts:
            found += [
                (f"{part} {model}", lambda x=(work, model): x[0](x[1], arguments, device)) for model in arguments.models
            ]
    if "train" in arguments.parts:
        found += [
            (f"train {model} {recipe}", lambda x=(model, recipe): train(*x, arguments, device))
            for model in arguments.models
            for recipe in arguments.recipes
        ]
    return found


def make(model: str, tiny: bool, device: torch.device, in_channels: int = 4) -> UNet2DConditionModel:
    """A UNet of the model's configuration with random weights, in float32."""
    config = MODELS[model]
    if tiny:
        config = TINY | {key: value for key, value in config.items() if key.startswith(("add", "cross", "projection"))}
        config |= {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
        config |= {"attention_head_dim": 2}
    with device:
        return UNet2DConditionModel(in_channels=in_channels, out_channels=4, **config)


def text(unet: UNet2DConditionModel, sets: int, images: int, pixels: int, dtype: torch.dtype) -> EncodedText:
    """As long as CLIP's captions."""
    draw = lambda *shape: torch.randn(sets, images, *shape, device=unet.device, dtype=dtype)
    xl = unet.config.addition_embed_type is not None
    embeds = draw(77, unet.config.cross_attention_dim)
    return EncodedText(embeds, draw(1280) if xl else None).sized(pixels, pixels)


def kernels(mode: str, backend: str, dtype: str, device: torch.device) -> dict[str, Any]:
    """The largest difference from float32 on the CPU, as a share of the largest value."""
    check_backend(backend, device)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # float32 is to mean that
    unet = reference_cache.network(None, "cpu")
    sample, words = torch.randn(2, 3, 9, 16, 16), torch.randn(2, 3, 7, 64)
    call = lambda unet, sample, words, t: unet(sample, t, EncodedText(words), 2, mode)
    with torch.no_grad():
        wanted = call(unet, sample, words, torch.tensor([500, 20]))
        there = {"device": device, "dtype": getattr(torch, dtype)}
        unet = JointUNet(unet.unet, backend).to(**there)
        found = call(unet, sample.to(**there), words.to(**there), torch.tensor([500, 20], device=device)).float().cpu()
    return {"difference": float((found - wanted).abs().max() / wanted.abs().max())}


@torch.no_grad()
def frozen(model: str, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds of the text encoders for a caption, and of the VAE to encode and decode an image; weights, memory."""
    width = (lambda x: x // 16) if arguments.tiny else (lambda x: x)
    sides = {"sd15": 512, "sdxl": 1024}
    pixels = arguments.pixels or (64 if arguments.tiny else sides[model])
    layers = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "intermediate_size": 3072}
    second = {"num_hidden_layers": 32, "num_attention_heads": 20, "hidden_size": 1280, "intermediate_size": 5120}
    with device:
        encoders = [CLIPTextModel(_text_config(layers, arguments.tiny))]
        if model == "sdxl":
            encoders.append(CLIPTextModelWithProjection(_text_config(second, arguments.tiny)))
        vae = AutoencoderKL(
            block_out_channels=tuple(map(width, (128, 256, 512, 512))), layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=8 if arguments.tiny else 32,
        ).eval()  # fmt: skip
        ids, image = torch.randint(0, 1000, (1, 77)), torch.randn(1, 3, pixels, pixels)
        latents = encode_pixels(vae, image)
    ways: dict[str, Callable[[], object]] = {
        "text": lambda: [encoder.eval()(ids) for encoder in encoders],
        "encode": lambda: encode_pixels(vae, image),
        "decode": lambda: decode_latents(vae, latents),
    }
    medians = {name: statistics.median(values) for name, values in measure(ways, arguments.repeats, 1).items()}
    weights = {"vae": vae, **{f"text_encoder_{i}": encoder for i, encoder in enumerate(encoders, 1)}}
    counts = {name: sum(x.numel() for x in part.parameters()) for name, part in weights.items()}
    return {"pixels": pixels, "seconds": medians, "weights": counts, "memory_gb": _peak_memory(device)}


def _text_config(layers: dict[str, int], tiny: bool) -> CLIPTextConfig:
    heads = layers["num_attention_heads"]
    small = {"num_hidden_layers": 2, "hidden_size": 4 * heads, "intermediate_size": 64}
    config = layers | small if tiny else layers
    return CLIPTextConfig(vocab_size=49_408, projection_dim=config["hidden_size"], **config)


def train(model: str, recipe: str, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds of a step, its FLOPs, peak memory."""
    chosen = RECIPES[recipe]
    config = TrainConfig("base", "out", TrainDataConfig("data"))
    config.network = NetworkConfig(gradient_checkpointing=chosen.get("gradient_checkpointing", False))
    config.lora = LoraSettings(rank=chosen.get("rank"))
    config.optimizer = OptimizerConfig(name=chosen.get("optimizer", "adamw"))
    base = make(model, arguments.tiny, device)
    if config.network.gradient_checkpointing:
        base.enable_gradient_checkpointing()
    unet = make_unet(base, config).train()
    optimizer = make_optimizer(unet, config.optimizer)
    schedule = NoiseSchedule.from_scheduler(DDIMScheduler(beta_schedule="scaled_linear"))
    schedule = NoiseSchedule(schedule.alphas_cumprod.to(device), schedule.prediction_type)
    side = arguments.pixels // 8 if arguments.pixels else base.config.sample_size
    sets = arguments.batch or (1 if arguments.tiny else BATCH[model])
    latents = torch.randn(sets, N, 4, side, side, device=device)
    words = text(unet.unet, sets, N, 8 * side, torch.float32)
    step_plan = StepPlan(K, "one_way")

    def loss(count: int = sets) -> torch.Tensor:
        draws = draw_sets(0, range(count), step_plan, latents.shape[1:], schedule.num_timesteps, ConditioningConfig())
        with torch.autocast(device.type, torch.bfloat16):
            return joint_loss(unet, schedule, latents[:count], words[:count], draws, step_plan).loss

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    # Attention as products of matrices, which are counted on every device; of one set, for these hold the scores.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss(1)
    flops = counter.get_total_flops() * sets * (2 if config.lora.rank else 3)
    seconds = measure({"step": step}, arguments.repeats, 1)["step"]
    median = statistics.median(seconds)
    peak = next((value for name, value in PEAK.items() if name in _name(device)), None)
    return {
        "seconds": median, "range": [min(seconds), max(seconds)], "sets": sets, "pixels": 8 * side,
        "images_per_second": sets * N / median, "tflops": flops / 1e12,
        "mfu": flops / median / peak if peak else None, "memory_gb": _peak_memory(device),
        "trained": sum(x.numel() for x in unet.parameters() if x.requires_grad),
        "weights": sum(x.numel() for x in unet.parameters()),
    }  # fmt: skip


@torch.no_grad()
def sample(model: str, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds of the UNet's calls in a run of one image, for each k, as a multiple of a stock UNet's."""
    dtype = getattr(torch, arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    stock = make(model, arguments.tiny, device).to(dtype).eval()
    joint = JointUNet(make(model, arguments.tiny, device, 9).to(dtype)).eval()
    side = arguments.pixels // 8 if arguments.pixels else stock.config.sample_size
    draw = lambda *shape: torch.randn(*shape, 9, side, side, device=device, dtype=dtype)
    words = text(stock, 2, 1, 8 * side, dtype)  # two branches
    target, steps = draw(2, 1), torch.linspace(999, 0, arguments.steps, device=device).long()
    flat = words.map(lambda x: x[:, 0])

    def plain() -> None:
        for t in steps:
            stock(target[:, 0, :4], t, flat.embeds, added_cond_kwargs=flat.added_cond_kwargs)

    def ours(k: int) -> None:
        cache = joint.encode_references(draw(1, k), text(stock, 1, k, 8 * side, dtype)) if k else None
        for t in steps:
            joint(target, t.expand(2), words, cache=cache)

    ways: dict[str, Callable[[], object]] = {"stock": plain}
    ways |= {f"k={k}": lambda k=k: ours(k) for k in arguments.references}
    seconds = measure(ways, arguments.repeats, 1)
    ratios = {
        name: statistics.median(own / peer for own, peer in zip(values, seconds["stock"], strict=True))
        for name, values in seconds.items()
    }
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"steps": arguments.steps, "pixels": 8 * side, "dtype": str(dtype).removeprefix("torch."),
            "seconds": medians, "times_stock": ratios, "memory_gb": _peak_memory(device)}  # fmt: skip


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def _peak_memory(device: torch.device) -> float:
    """GB: the GPU's since the last reset; of the whole process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    sys.exit(main())
