"""Does `split` find the panels of collages, and refuse what is no collage?

    python -m benchmarks.split --photos ../shared/dreambooth

Makes 500 collages of real photos (2 to 9 panels in rows or columns of unequal numbers and sizes; gutters of 0 to
24 px, white, black or coloured; borders; JPEG noise; panels up to 2 px out of place) and prints how many have all
panels right (IoU > 0.9), with gutters and without, how many of the single photos are refused, and the time.

`--without red_cartoon` leaves out the one subject of DreamBooth that is no photo: drawings on white have no edge that
could be seen beside a white gutter, or beside one another.

The collages are of the photos of every second subject (`--subjects report`); the thresholds in
`data_gen/stages/collage_split.py` were found with the other subjects (`--subjects tune`) and other seeds.
"""

import argparse
import io
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from data_gen.stages.collage_split import find_panels
from data_gen.stages.split import SplitSettings
from jedi.io.images import Box, find_images, load_image

SUBJECTS = ("report", "tune", "all")


@dataclass(frozen=True)
class Collage:
    """An image, its panels, and what is said of it in the results."""

    image: Image.Image
    panels: list[Box]
    gutter: int
    traits: tuple[str, ...]


def read_photos(folder: str | Path, subjects: str = "all", without: Sequence[str] = ()) -> dict[str, list[Image.Image]]:
    """The photos of each subject: a folder of folders. `report` takes the first, third, ... subject by name, `tune`
    the others; then those named in `without` are left out."""
    folders = sorted(path for path in Path(folder).iterdir() if path.is_dir())
    chosen = {"report": folders[::2], "tune": folders[1::2], "all": folders}[subjects]
    return {path.name: [load_image(x) for x in find_images([path])[0]] for path in chosen if path.name not in without}


def without_bars(photo: Image.Image) -> Image.Image:
    """A photo without black bars at its sides: in a collage with black gutters nobody could tell them apart."""
    return photo.crop(photo.convert("L").point(lambda x: 255 * (x > 12)).getbbox())


def parts(chance: random.Random, total: int, count: int, unequal: float) -> list[int]:
    """`total` pixels in `count` parts: equal, or up to `unequal` longer or shorter."""
    weights = [chance.uniform(1 - unequal, 1 + unequal) for _ in range(count)]
    ends = [round(total * sum(weights[: i + 1]) / sum(weights)) for i in range(count)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def layout(chance: random.Random, size: tuple[int, int], counts: Sequence[int], gutter: int, border: int) -> list[Box]:
    """Panels in rows, `counts` says how many in each; half of the collages have rows and columns of one size."""
    unequal = chance.choice([0, 0, 0.15, 0.3])
    boxes, top = [], border
    free = size[1] - 2 * border - gutter * (len(counts) - 1)
    for count, height in zip(counts, parts(chance, free, len(counts), unequal), strict=True):
        left = border
        for width in parts(chance, size[0] - 2 * border - gutter * (count - 1), count, unequal):
            boxes.append((left, top, left + width, top + height))
            left += width + gutter
        top += height + gutter
    return boxes


def row_counts(chance: random.Random, panels: int, aspect: float) -> list[int]:
    """How many panels stand in each row: at most 4, and none is more than 2.5 times as long as broad."""
    while True:
        rows = chance.randint(1, panels)
        base, more = divmod(panels, rows)
        if chance.random() < 0.5:
            counts = [base + (i < more) for i in range(rows)]
        else:
            counts = [chance.randint(1, 4) for _ in range(rows)]
        chance.shuffle(counts)
        aspects = [aspect * rows / count for count in counts]
        if sum(counts) == panels and max(counts) <= 4 and all(0.4 <= x <= 2.5 for x in aspects):
            return counts


def make_collage(photos: dict[str, list[Image.Image]], seed: str) -> Collage:
    """A collage of one subject or of any photos, everything about it drawn from the seed."""
    chance = random.Random(seed)
    size = (chance.randint(512, 1024), chance.randint(512, 1024))
    gutter = chance.choice([0, chance.randint(1, 24), chance.randint(1, 24)])
    border = chance.choice([0, gutter, chance.randint(1, 24)])
    colour = chance.choice(["white", "black", "coloured"])
    paint = tuple(chance.randrange(256) for _ in range(3)) if colour == "coloured" else colour
    shift = chance.choice([0, 2])
    in_columns = chance.random() < 0.3
    turned = size[::-1] if in_columns else size
    counts = row_counts(chance, chance.randint(2, 9), turned[0] / turned[1])
    boxes = layout(chance, turned, counts, gutter, border)
    if in_columns:
        boxes = [(top, left, bottom, right) for left, top, right, bottom in boxes]
    one_subject = chance.random() < 0.5
    subjects = [chance.choice(sorted(photos))] if one_subject else sorted(photos)
    pool = [photo for subject in subjects for photo in photos[subject]]
    drawn: list[Image.Image] = []
    while len(drawn) < len(boxes):  # a subject of few photos shows some of them twice, cropped differently
        drawn += chance.sample(pool, len(pool))

    image = Image.new("RGB", size, paint)
    panels = []
    for photo, (left, top, right, bottom) in zip(drawn, boxes, strict=False):
        x, y = (chance.randint(-shift, shift) for _ in range(2))
        box = (max(left + x, 0), max(top + y, 0), min(right + x, size[0]), min(bottom + y, size[1]))
        # Without gutters the next panel covers the seam: where that one is out of place, no gap must show.
        spare = 0 if gutter else 2 * shift
        inner = (border, border, size[0] - border, size[1] - border)
        ends = [min(box[2] + spare, max(box[2], inner[2])), min(box[3] + spare, max(box[3], inner[3]))]
        image.paste(fill(chance, without_bars(photo), (ends[0] - box[0], ends[1] - box[1])), box[:2])
        panels.append(box)
    quality = chance.choice([None, *range(50, 96)])
    if quality is not None:
        packed = io.BytesIO()
        image.save(packed, "JPEG", quality=quality)
        image = load_image(packed.getvalue(), "composite")
    traits = (
        f"{len(panels)} panels",
        f"all {subjects[0]}" if one_subject else "any photos",
        f"{colour} gutters" if gutter else "no gutters",
        f"{colour} border" if border else "no border",
        f"{shift} px out of place",
        "columns" if in_columns else "rows",
        "equal" if len(set(counts)) == 1 else "unequal",
    )
    return Collage(image, panels, gutter, traits)


def fill(chance: random.Random, photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A random crop of the photo, at least 7 tenths of what fits, flipped or not, in `size` pixels."""
    scale = min(photo.width / size[0], photo.height / size[1]) * chance.uniform(0.7, 1)
    width, height = (x * scale for x in size)
    left, top = chance.uniform(0, photo.width - width), chance.uniform(0, photo.height - height)
    crop = photo.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
    return ImageOps.mirror(crop) if chance.random() < 0.5 else crop


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    both = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return both / (sum(areas) - both)


def all_right(found: list[Box] | None, panels: list[Box]) -> bool:
    """Whether each panel has a box of its own with IoU over 0.9, and no box is left."""
    if found is None or len(found) != len(panels):
        return False
    return all(sum(overlap(box, panel) > 0.9 for box in found) == 1 for panel in panels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default="../shared/dreambooth", help="a folder of folders: a subject's photos each")
    parser.add_argument("--subjects", choices=SUBJECTS, default="report", help="whose photos the collages show")
    parser.add_argument("--without", nargs="*", default=[], metavar="SUBJECT", help="subjects that are left out")
    parser.add_argument("--collages", type=int, default=500)
    parser.add_argument("--singles", type=int, default=0, help="number of single photos (0: all there are)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--traits", action="store_true", help="also print the failures by what collages are like")
    options = parser.parse_args()
    photos = read_photos(options.photos, options.subjects, options.without)
    config = SplitSettings()

    right: dict[str, list[bool]] = {"with gutters": [], "without gutters": []}
    failures, seen, seconds = Counter(), Counter(), []
    for number in range(options.collages):
        collage = make_collage(photos, f"{options.seed}/{number}")
        start = time.perf_counter()
        found = find_panels(collage.image, config)
        seconds.append(time.perf_counter() - start)
        good = all_right(found, collage.panels)
        right["with gutters" if collage.gutter else "without gutters"].append(good)
        seen.update(collage.traits)
        if not good:
            failures.update(collage.traits)
            if options.traits:
                boxes = "no collage" if found is None else f"{len(found)} panels"
                print(f"collage {options.seed}/{number}: {boxes} for {', '.join(collage.traits)} ({collage.gutter} px)")
    for name, values in right.items():
        if values:
            share = sum(values) / len(values)
            print(f"all panels right, {name}: {sum(values)} of {len(values)} collages ({share:.1%})")

    singles = [x for images in read_photos(options.photos, "all").values() for x in images]
    singles = random.Random(options.seed).sample(singles, options.singles or len(singles))
    refused = sum(find_panels(photo, config) is None for photo in singles)
    print(f"refused as no collage: {refused} of {len(singles)} single photos ({refused / len(singles):.1%})")
    times = sorted(1000 * x for x in seconds)
    print(f"{statistics.median(times):.0f} ms a collage (median; {times[0]:.0f} to {times[-1]:.0f})")
    if options.traits:
        for trait, count in sorted(seen.items()):
            print(f"  {trait:<20} {failures[trait]:4} of {count:4} wrong ({failures[trait] / count:.1%})")


if __name__ == "__main__":
    main()
