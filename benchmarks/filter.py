"""Does the filter `identity` find a stranger in a set? And from which threshold on? Areas under ROC curves.

    python -m benchmarks.filter --photos ../shared/dreambooth --segment rembg:isnet-general-use --masks /tmp/masks

Sets are mixed on purpose from photos in DreamBench's layout: for each of its subjects up to 5 sets of 4 of its photos,
5 sets of 3 and a photo of any other subject, and 5 of 3 and a photo of another subject of the same class (dog and dog;
the hard ones), where there is one. Judged are the mean and the minimum of the pairs' cosines, of whole images and of
cut-outs. Masks are made by the stage `segment` and kept in `--masks`: finding them takes minutes, the rest seconds.

The area is the chance that a clean set scores above a mixed one. Its 95 % interval comes from drawing subjects, with
all their sets, again and again. Two thresholds are proposed: Youden's, with the most of (clean sets kept - mixed sets
kept), and the one that keeps 95 % of the clean sets. Then the same for `sharpness`: the photos against themselves
blurred by a Gaussian of 2 pixels, and enlarged from a quarter of the resolution.
"""

import argparse
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from data_gen.context import Context
from data_gen.samples import Dropped, SubjectSet
from data_gen.stages.filters import Encoders, Images
from data_gen.stages.filters.likeness import pair_cosines
from data_gen.stages.filters.quality import sharpness
from data_gen.stages.segment import Segment, SegmentSettings
from jedi.evaluation.dreambench import read_benchmark
from jedi.evaluation.statistics import ConfidenceInterval
from jedi.io.images import load_image, load_mask

SIDE, SETS, PHOTOS, RESOLUTION = 1024, 5, 4, 512


@dataclass(frozen=True)
class Mixture:
    """One set: photos as (subject, number), the first one's subject being the set's, and what kind it is."""

    kind: str
    photos: tuple[tuple[int, int], ...]


def read_sets(photos: str | Path) -> list[SubjectSet]:
    """One set for each subject, of all its photos, at most 1024 pixels wide and high; `class` is the class noun."""
    sets = []
    for number, subject in enumerate(read_benchmark(photos).subjects):
        images = [load_image(path) for path in subject.images]
        for image in images:
            image.thumbnail((SIDE, SIDE))
        sets.append(
            SubjectSet(
                key=f"train-{number:08d}",
                subject={"id": subject.name, "name": subject.noun, "class": subject.noun},
                captions=[f"a {subject.noun}"] * len(images),
                images=images,
                masks=[None] * len(images),
                attributes=[{} for _ in images],
                licence="see the data set",
            )
        )
    return sets


def with_masks(sets: Sequence[SubjectSet], model: str, folder: str | Path | None) -> list[SubjectSet]:
    """The sets with masks from the folder, or else made by the stage `segment` and written there. A mask may be empty:
    its cut-out is white then, and unlike all others."""
    stage = Segment(SegmentSettings(model=model), Context(""))
    done = []
    for one in sets:
        paths = [Path(folder) / one.subject["id"] / f"{i:02}.png" for i in range(len(one.images))] if folder else []
        if paths and all(path.is_file() for path in paths):
            done.append(replace(one, masks=[load_mask(path) for path in paths]))
            continue
        (found,) = stage.process([one])
        done.append(found.rejected if isinstance(found, Dropped) else found)
        for path, mask in zip(paths, done[-1].masks, strict=False):
            path.parent.mkdir(parents=True, exist_ok=True)
            mask.save(path)
    return done


def mix(sets: Sequence[SubjectSet], seed: int) -> list[Mixture]:
    """Clean sets and sets with one stranger, the same for a seed."""
    mixed = []
    for number, one in enumerate(sets):
        chance = random.Random(f"{seed}/{one.subject['id']}")
        own = [(number, i) for i in range(len(one.images))]
        clean = list(itertools.combinations(own, PHOTOS))
        mixed += [Mixture("clean", photos) for photos in chance.sample(clean, min(SETS, len(clean)))]
        others = [k for k in range(len(sets)) if k != number]
        rivals = [k for k in others if sets[k].subject["class"] == one.subject["class"]]
        for kind, strangers in (("any", others), ("same class", rivals)):
            for _ in range(SETS if strangers else 0):
                other = chance.choice(strangers)
                stranger = (other, chance.randrange(len(sets[other].images)))
                mixed.append(Mixture(kind, (*chance.sample(own, PHOTOS - 1), stranger)))
    return mixed


def score(mixed: Sequence[Mixture], embedded: Sequence) -> dict[str, np.ndarray]:
    """`mean` and `minimum` of each set's pairs, from each subject's ``[n d]``."""
    import torch

    cosines = [pair_cosines(torch.stack([embedded[s][i] for s, i in one.photos])) for one in mixed]
    return {
        "mean": np.array([x.mean().item() for x in cosines]),
        "minimum": np.array([x.min().item() for x in cosines]),
    }


def area(
    good: np.ndarray,
    bad: np.ndarray,
    good_groups: np.ndarray,
    bad_groups: np.ndarray,
    samples: int = 2000,
    seed: int = 0,
) -> ConfidenceInterval:
    """The area under the ROC curve (Mann and Whitney's U as a share; ties count half) with a 95 % interval.

    Groups (subjects, integers) are drawn with replacement, the same ones for both sides. A draw in which a side is
    empty is left out.
    """
    names = np.unique(np.concatenate([good_groups, bad_groups]))
    wins = (good[:, None] > bad) + 0.5 * (good[:, None] == bad)
    left, right = (groups[:, None] == names for groups in (good_groups, bad_groups))
    won = left.T.astype(float) @ wins @ right
    pairs = np.outer(left.sum(0), right.sum(0))
    draws = np.random.default_rng(seed).integers(len(names), size=(samples, len(names)))
    weights = (draws[:, :, None] == np.arange(len(names))).sum(1).astype(float)
    total = np.einsum("ns,st,nt->n", weights, pairs, weights)
    some = total > 0
    areas = np.einsum("ns,st,nt->n", weights, won, weights)[some] / total[some]
    low, high = np.quantile(areas, (0.025, 0.975))
    return ConfidenceInterval(float(wins.mean()), float(low), float(high), wins.size, len(names))


def youden(good: np.ndarray, bad: np.ndarray) -> float:
    """The threshold with the most of (share of good kept - share of bad kept): in the middle of the gap there."""
    values = np.unique(np.concatenate([good, bad]))
    cuts = (values[1:] + values[:-1]) / 2
    gain = [(good >= cut).mean() - (bad >= cut).mean() for cut in cuts]
    return float(cuts[int(np.argmax(gain))])


def keeping(good: np.ndarray, share: float = 0.95) -> float:
    """The highest threshold that keeps this share of the good ones."""
    return float(np.quantile(good, 1 - share, method="lower"))


def line(name: str, good: np.ndarray, bad: np.ndarray, groups: tuple[np.ndarray, np.ndarray], digits: int = 3) -> str:
    """One row: the area, and both thresholds with the shares of good and of bad sets that they keep."""
    result = area(good, bad, *groups)
    text = f"{name:<34} AUC {result.mean:.3f} ({result.low:.3f} to {result.high:.3f})"
    for title, cut in (("Youden", youden(good, bad)), ("95 %", keeping(good))):
        text += f"   {title} {cut:.{digits}f}: keeps {(good >= cut).mean():4.0%} good, {(bad >= cut).mean():4.0%} bad"
    return text


def identity(sets: Sequence[SubjectSet], encoder: str, seed: int, masked: Sequence[bool] = (False, True)) -> list[str]:
    """The rows of the filter `identity`."""
    mixed = mix(sets, seed)
    kinds = np.array([one.kind for one in mixed])
    subjects = np.array([one.photos[0][0] for one in mixed])
    images = Images(sets, Encoders(Context("")))
    rows = [f"{(kinds == kind).sum()} sets: {kind}" for kind in dict.fromkeys(kinds)]
    for cut in masked:
        scores = score(mixed, images.embed("--encoder", encoder, cut))
        for (name, values), kind in itertools.product(scores.items(), ("any", "same class")):
            good, bad = kinds == "clean", kinds == kind
            title = f"{'cut-outs' if cut else 'whole'}, {name}, {kind}"
            rows.append(line(title, values[good], values[bad], (subjects[good], subjects[bad])))
    return rows


def sharp(sets: Sequence[SubjectSet], side: int = RESOLUTION) -> list[str]:
    """The rows of the filter `sharpness`."""
    photos = [(k, _shrunk(image, side)) for k, one in enumerate(sets) for image in one.images]
    groups = np.array([k for k, _ in photos])
    good = np.array([sharpness(image, side) for _, image in photos])
    worse = {
        "blurred": [image.filter(ImageFilter.GaussianBlur(2)) for _, image in photos],
        "enlarged": [_shrunk(image, side // 4) for _, image in photos],
    }
    return [
        line(f"sharpness at {side}, {name}", good, np.array([sharpness(x, side) for x in bad]), (groups, groups), 0)
        for name, bad in worse.items()
    ]


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    scale = side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, help="a folder in DreamBench's layout")
    parser.add_argument("--encoder", default="efficientnet-lite0", help="as for jedi.encoders.load_encoder")
    parser.add_argument("--segment", help="KIND:SOURCE of the masks; without it, whole images only")
    parser.add_argument("--masks", help="where masks are kept")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sets = read_sets(arguments.photos)
    if arguments.segment:
        sets = with_masks(sets, arguments.segment, arguments.masks)
        masks = [mask for one in sets for mask in one.masks]
        print(f"{len(masks)} masks, {sum(mask.getbbox() is None for mask in masks)} of them empty")
    print(
        f"{len(sets)} subjects; {arguments.encoder}; masks by {arguments.segment or 'nothing'}; seed {arguments.seed}"
    )
    for row in identity(sets, arguments.encoder, arguments.seed, (False, True) if arguments.segment else (False,)):
        print(row)
    for row in sharp(sets):
        print(row)


if __name__ == "__main__":
    main()
