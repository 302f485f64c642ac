"""Small folders in the layouts of DreamBench and DreamBench++, and small encoders: what the evaluation's tests need."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.encoders import save_clip, save_dino

NOUNS = {"can": "cup", "cat": "cat", "vase": "cup"}
OBJECTS = ("a {0} {1} on the beach", "a red {0} {1}")
LIVE = ("a {0} {1} on the grass", "a blue {0} {1}")


def scene(subject: int, number: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A square of the subject's colour, its place and the background differing from image to image."""
    random = np.random.default_rng(100 * subject + number)
    pixels = np.full((size[1], size[0], 3), random.integers(0, 256, 3), np.uint8)
    left, top = random.integers(0, size[0] // 2), random.integers(0, size[1] // 2)
    pixels[top : top + 20, left : left + 20] = np.random.default_rng(subject).integers(0, 256, 3)
    return Image.fromarray(pixels)


def prompts_file(nouns: dict[str, str] = NOUNS) -> str:
    """``prompts_and_classes.txt`` as the published one is written, with two prompts of each kind."""
    lists = [
        "\n".join(["prompt_list = [", *(f"'{x}'.format(unique_token, class_token)," for x in prompts), "]"])
        for prompts in (OBJECTS, LIVE)
    ]
    rows = "\n".join(f"{name},{noun}" for name, noun in nouns.items())
    parts = f"Classes\n\nsubject_name,class\n{rows}\n\nPrompts\n\n"
    return f"{parts}Object Prompts\n\n{lists[0]}\n\nLive Subject Prompts\n\n{lists[1]}\n"


def dreambench(folder: Path, nouns: dict[str, str] = NOUNS) -> Path:
    """Each subject with six images, 00.jpg to 05.jpg."""
    for number, name in enumerate(nouns):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            scene(number, i).save(folder / name / f"{i:02}.jpg", quality=95)
    (folder / "prompts_and_classes.txt").write_text(prompts_file(nouns))
    return folder


def dreambench_plus(folder: Path) -> Path:
    """Two subjects of two categories, one image and three prompts each."""
    for number, (place, noun) in enumerate({"live_subject/animal/00": "Cat", "object/03": "Red cup"}.items()):
        for kind in ("images", "captions"):
            (folder / kind / place).parent.mkdir(parents=True)
        scene(number, 0).save(folder / "images" / f"{place}.jpg")
        prompts = [f"{noun.lower()} {where}" for where in ("on the beach", "in the grass", "with a bird")]
        (folder / "captions" / f"{place}.txt").write_text("\n".join([noun, *prompts, ""]))
    return folder


def encoders(folder: Path) -> list[str]:
    """Specifications of a CLIPModel and a ViTModel, small, with random weights."""
    return [f"clip:{save_clip(folder / 'tiny-clip')}", f"dino:{save_dino(folder / 'tiny-dino')}"]
