"""What all parts of the data engine (sources, stages, filters) may know of the data set that they work for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Context:
    """The settings that concern all parts. A part gets its own section's settings and this."""

    out: str
    """The data set's folder; `prompts.json` lies there, where the source reads prompts."""
    seed: int = 0
    sets: int = 12_000
    """Training sets wanted of sources that make sets; the most that is taken of those that find them."""
    heldout_sets: int = 400
    images_per_set: int = 4
    """At most, in sets that are found."""
    resolution: int = 64
    """Pixels of a side of the square images that arrive."""
    device: str = "auto"
    """Of models: auto, cpu, cuda, cuda:1. `data_gen.models.device_of` resolves it."""
    dtype: str = "float32"
    """Of models: float32, bfloat16, float16."""
