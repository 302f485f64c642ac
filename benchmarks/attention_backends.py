"""Which attention back end trains a small model fastest on a CPU? Forward and backward, in float32 and bf16.

    python -m benchmarks.attention_backends

The shapes are those of the shipped model's training: 20 sets of 3 images, one a reference (two are as frequent), 8 x 8
tokens an image; and its captions, 40 tokens. The peer is PyTorch's own kernel, `sdpa`.
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks.timing import measure, report
from jedi.attention import ATTENTION_BACKENDS

SHAPES = {"coupled self-attention": (20, 4, 128, 192, 40), "cross-attention": (60, 4, 64, 40, 40)}
BACKENDS = ("sdpa", "matmul")


def step(backend: str, tensors: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    """One forward and backward pass."""
    attend = ATTENTION_BACKENDS.get(backend)
    return lambda: attend(*tensors).sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    for name, (b, h, query, key, d) in SHAPES.items():
        for dtype in (torch.float32, torch.bfloat16):
            tensors = tuple(
                torch.randn(b, h, length, d, dtype=dtype, requires_grad=True) for length in (query, key, key)
            )
            print(f"{name}, {str(dtype).removeprefix('torch.')}")
            seconds = measure({backend: step(backend, tensors) for backend in BACKENDS}, options.repeats, warm_up=2)
            report(seconds, 1, "passes", "matmul")


if __name__ == "__main__":
    main()
