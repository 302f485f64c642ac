"""The images in the README and in the model card of jedi-tiny, from its weights and from held-out subjects.

python -m data_gen run --config configs/data_gen/benchmark.yaml
python -m examples.model_card data/benchmark

The held-out sets come in the order of the benchmark, none is chosen; every seed is fixed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from jedi.io.contact_sheet import contact_sheet
from jedi.io.images import load_image, place_in_row
from jedi.loading import load_pipeline
from jedi.pipeline import JediPipeline, image_generators
from jedi_toy.benchmark.cases import read_cases

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "jedi-tiny"
Row = list[tuple[Image.Image, str]]


def images(pipe: JediPipeline, prompts: Sequence[str], references: list[Image.Image], **options) -> Row:
    """An image for each prompt, with the prompt as its label; image i has seed i."""
    made = pipe(list(prompts), references, generator=image_generators(0, len(prompts)), **options).images
    return list(zip(made, prompts, strict=True))


def given(subject: str, count: int = 2) -> list[Image.Image]:
    """The first images of a subject in assets/references."""
    return [load_image(file) for file in sorted((ROOT / "assets" / "references" / subject).glob("*.png"))[:count]]


def labelled(images: Sequence[Image.Image], label: str = "reference") -> Row:
    return [(image, label) for image in images]


def together(pipe: JediPipeline, subjects: dict[str, Image.Image], prompts: Sequence[str]) -> Row:
    """Several subjects in one image, as `sample.py --subject` makes it."""
    height, width = pipe.image_size
    row = [place_in_row(x, i, len(subjects), width, height) for i, x in enumerate(subjects.values())]
    return images(pipe, prompts, row, reference_prompts=list(subjects))


def example(pipe: JediPipeline) -> list[Row]:
    """One subject a row; the last row holds two."""
    places = ("on a sandy beach", "in the snow", "in the forest", "in front of a brick wall")
    scenes = (*places[:2], "upside down in the forest", "lying on its side in front of a brick wall")
    rows = []
    for subject, noun in {"teddy_bear": "a toy", "boxing_glove": "a thing", "hamster": "an animal"}.items():
        references = given(subject)
        rows.append(labelled(references) + images(pipe, [f"{noun} {scene}" for scene in scenes], references))
    pair = {"animal": given("hamster", 1)[0], "thing": given("boxing_glove", 1)[0]}
    prompts = [f"an animal on the left and a thing on the right {place}" for place in places]
    rows.append([(image, name) for name, image in pair.items()] + together(pipe, pair, prompts))
    return rows


def heldout(pipe: JediPipeline, data: str, count: int = 10) -> list[Row]:
    """The first subjects of the benchmark: references, both modes, the real image of that prompt."""
    cases, rows = read_cases(data), []
    for case in cases.single[:count]:
        references = list(cases.references(case, 2))
        (one_way,) = images(pipe, [case.prompt], references, mode="one_way")
        (mutual,) = images(pipe, [case.prompt], references, mode="mutual")
        real = cases.image(case, case.target)
        rows.append([*labelled(references), one_way, (mutual[0], "the same, mutual"), (real, "real image")])
    return rows


def several(pipe: JediPipeline, data: str, count: int = 8) -> list[Row]:
    """The first pairs of the benchmark: the image of each subject in its slot, both modes, the real image."""
    cases, rows = read_cases(data), []
    for case in cases.pairs[:count]:
        references = list(cases.references(case))
        (one_way,) = images(pipe, [case.prompt], references, mode="one_way")
        (mutual,) = images(pipe, [case.prompt], references, mode="mutual")
        real = cases.image(case, case.target)
        rows.append([*labelled(references), one_way, (mutual[0], "the same, mutual"), (real, "real image")])
    return rows


def limits(pipe: JediPipeline) -> list[Row]:
    """Words for tilts and size, references that differ in size and side."""
    glove = given("boxing_glove", 3)[2]
    small = ImageOps.expand(glove.resize((128, 128)), 64, fill=glove.getpixel((2, 2)))
    turned = ImageOps.mirror(glove)
    words = images(pipe, ["a thing leaning to the left in the snow", "a small thing in the snow"], [glove])
    blurred = images(pipe, ["a thing in the forest", "a thing on a sandy beach"], [small, turned])
    return [
        [(glove, "reference"), *words],
        [(small, "reference, small"), (turned, "reference, mirrored"), *blurred],
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="the toy benchmark's shards")
    parser.add_argument("--model", default=str(MODEL))
    arguments = parser.parse_args(argv)
    pipe, _ = load_pipeline(arguments.model)
    contact_sheet(example(pipe), tile=128).save(ROOT / "assets" / "example.png")
    contact_sheet(heldout(pipe, arguments.data), tile=96).save(MODEL / "heldout.png")
    contact_sheet(several(pipe, arguments.data), tile=96).save(MODEL / "several.png")
    contact_sheet(limits(pipe), tile=96).save(MODEL / "limits.png")


if __name__ == "__main__":
    main()
