"""The stage `compose`: two subjects in one image, each with references of its own, for multi-subject training.

Of two neighbouring sets of a unit it makes a third: first images of the one subject alone and of the other alone (its
`references`), then images of both side by side on a new background, cut out of *other* images of theirs, so that
copying a reference is no answer. The sets it is made of stay as they are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from PIL import Image

from data_gen.context import Context
from data_gen.samples import Dropped, Member, SubjectSet
from data_gen.sources.subjects import names
from data_gen.stages import STAGES, dealt
from data_gen.stages.backgrounds import Backgrounds, BackgroundSettings, OnBackgrounds
from data_gen.stages.compositing import EdgesSettings, area, cut, cut_sides, is_hidden, paste, resized, union, where
from data_gen.stages.phrases import noun_of
from jedi.io.config import ConfigError
from jedi.io.ranges import Interval, Range, Share

_PLACES = ("left", "right")
_GAP = 0.02  # of the image's side, that stays free around each subject


@dataclass
class ComposeSettings:
    """Sets of two subjects of different classes, of `images_per_set` images: `references` of each subject alone, the
    rest of both together. They come on top of the sets that are there: with share=1, half as many again.

    An image gives its subject only where the image's border cuts it nowhere but at the bottom (there it stands on
    the new image's bottom), and where it has enough pixels: it is enlarged `enlarge` times at most.
    """

    share: Share = 0.5
    """Of the pairs that neighbouring sets make."""
    references: Annotated[int, Range(1, 31)] = 1
    """Images of each subject alone."""
    size: Annotated[list[float], Interval(0.1, 0.9)] = field(default_factory=lambda: [0.35, 0.6])
    """Longer side / the image's; a half bounds widths."""
    area: Annotated[list[float], Interval(0, 1)] = field(default_factory=lambda: [0.01, 0.8])
    """Subject's share of the image it is cut from."""
    min_area: Share = 0.01
    """And of the new image, at least; below, there is nothing to learn from it."""
    enlarge: Annotated[float, Range(0.1, 4)] = 1.5
    jitter: Annotated[float, Range(0, 0.3)] = 0.05
    """Of the height at which the two stand, as a share of the side."""
    name_prob: Share = 1.0
    """Of saying "a red fox", not "an animal"."""
    place_prob: Share = 0.7
    """Of saying who stands on the left."""
    openings: list[str] = field(default_factory=lambda: ["", "", "an image of", "a photo of"])
    edges: EdgesSettings = field(default_factory=EdgesSettings)
    backgrounds: BackgroundSettings = field(default_factory=BackgroundSettings)

    def __post_init__(self) -> None:
        if not self.openings:
            raise ConfigError("compose.openings is empty: name at least one, '' for none")
        self.backgrounds.check("compose.backgrounds")


class Figure(NamedTuple):
    """A subject cut out of one image of its set."""

    image: int
    """Number of that image."""
    cutout: Image.Image
    """RGBA."""
    cut_below: bool
    """By the image's lower border."""


@STAGES.register("compose")
class Compose(OnBackgrounds):
    """New sets of two subjects, after the sets that it was given. A pair whose images do not allow it is dropped,
    and counted, under the new set's key."""

    Settings = ComposeSettings
    needs = frozenset({"images", "masks"})

    def __init__(self, settings: ComposeSettings, context: Context) -> None:
        super().__init__(settings, context)
        least = 2 * self.settings.references + 1
        if context.images_per_set < least:
            raise ConfigError(
                f"images_per_set={context.images_per_set} leaves compose no image of both subjects beside "
                f"{self.settings.references} of each alone (compose.references): set images_per_set={least} or more"
            )
        self.backgrounds = Backgrounds("compose", self.settings.backgrounds, context)

    def process(self, sets: Sequence[SubjectSet]) -> list[SubjectSet | Dropped]:
        """All sets as they are, then the new ones in the order of their first halves."""
        new = []
        for a, b in pairs(sets):
            if random.Random(f"{self.context.seed}/{a.key}/compose").random() < self.settings.share:
                new.append(self._together(a, b))
        return [*sets, *new]

    def _together(self, a: SubjectSet, b: SubjectSet) -> SubjectSet | Dropped:
        key = f"{a.key}-with-{b.key.partition('-')[2]}"
        rng = random.Random(f"{self.context.seed}/{key}")
        count = self.settings.references
        alone, figures = [], []
        for sample in (a, b):
            if len(sample.images) <= count:
                return Dropped(key, "compose: too few images of a subject")
            usable = self._figures(sample)
            # References are drawn first from what cannot be cut out: it is of no other use here.
            order = rng.sample(range(len(sample.images)), len(sample.images))
            order.sort(key=lambda i: i in {figure.image for figure in usable})
            alone.append(sorted(order[:count]))
            figures.append([figure for figure in usable if figure.image not in alone[-1]])
            if not figures[-1]:
                return Dropped(key, "compose: no image of a subject is whole and large enough")
        members: list[Member] = []
        for j, (sample, chosen) in enumerate(zip((a, b), alone, strict=True)):
            for *member, attributes in (sample.members[i] for i in chosen):
                members.append((*member, {**attributes, "subjects": [j]}))
        targets = self.context.images_per_set - 2 * count
        rows = zip(*(dealt(rng, given, targets) for given in figures), strict=True)
        made_by = []
        for row, number in zip(rows, self.backgrounds.draw(rng, targets), strict=True):
            background = self.backgrounds.get(number, (self.context.resolution,) * 2)
            order = rng.sample((0, 1), 2)  # who stands on the left
            image, parts = self._image(row, order, background.image, rng)
            attributes = {
                "background": background.phrase,
                "subjects": [0, 1],
                "standing": [
                    {"place": _PLACES[order.index(j)], "size": "together", **where(mask), "visible": 1.0}
                    for j, mask in enumerate(parts)
                ],
            }
            members.append((self._caption((a, b), order, background.phrase, rng), image, union(parts), attributes))
            made_by.append({"images": [figure.image for figure in row], "backdrop": number, **background.origin})
        captions, images, masks, attributes = map(list, zip(*members, strict=True))
        return SubjectSet(
            key,
            _joined(a.subject, b.subject),
            captions,
            images,
            masks,
            attributes,
            "; ".join(dict.fromkeys(filter(None, [a.licence, b.licence, self.backgrounds.rights]))),
            references=list(range(2 * count)),
            made_from=[a.key, b.key],
            provenance={"compose": {"sets": [a.key, b.key], "references": alone, "together": made_by}},
        )

    def _figures(self, sample: SubjectSet) -> list[Figure]:
        """The subject of each image that can be cut out whole."""
        figures = []
        for i, (image, mask) in enumerate(zip(sample.images, sample.masks, strict=True)):
            if mask is None or not self.settings.area[0] <= area(mask) <= self.settings.area[1]:
                continue
            sides, cutout = cut_sides(mask), cut(image, mask, self.settings.edges)
            if is_hidden(sample.attributes[i]) or cutout is None or sides - {"bottom"}:
                continue
            size = self._fitted(cutout.size, self.settings.size[1])
            share = area(cutout.getchannel("A")) * size[0] * size[1] / self.context.resolution**2
            if share >= self.settings.min_area:
                figures.append(Figure(i, cutout, "bottom" in sides))
        return figures

    def _fitted(self, size: tuple[int, int], fraction: float) -> tuple[int, int]:
        """A cut-out's size where its longer side is to be a fraction of the new image's; its width stays within a
        half, and it is enlarged no more than allowed."""
        side = self.context.resolution
        widest = side // 2 - 2 * max(1, round(_GAP * side))
        scale = min(fraction * side / max(size), widest / size[0], self.settings.enlarge)
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def _image(
        self, row: Sequence[Figure], order: Sequence[int], behind: Image.Image, rng: random.Random
    ) -> tuple[Image.Image, list[Image.Image]]:
        """Both subjects on the background, `order[0]` in its left half, and the mask of each."""
        side, gap = self.context.resolution, max(1, round(_GAP * self.context.resolution))
        sizes = [self._large_enough(figure, rng.uniform(*self.settings.size)) for figure in row]
        ground = rng.uniform(0.7, 0.95)  # both stand on one ground
        corners = []
        for j, (figure, (width, height)) in enumerate(zip(row, sizes, strict=True)):
            left = order.index(j) * (side // 2) + gap
            x = left + round(rng.random() * (side // 2 - 2 * gap - width))
            foot = ground + rng.uniform(-self.settings.jitter, self.settings.jitter)
            y = side - height if figure.cut_below else min(max(round(foot * side) - height, gap), side - gap - height)
            corners.append((x, y))
        cutouts = [resized(figure.cutout, size) for figure, size in zip(row, sizes, strict=True)]
        return paste(behind, cutouts, corners)

    def _large_enough(self, figure: Figure, fraction: float) -> tuple[int, int]:
        """The size of that fraction, or the least above it that leaves the subject its `min_area`."""
        share = area(figure.cutout.getchannel("A")) / self.context.resolution**2
        for larger in (fraction, (fraction + self.settings.size[1]) / 2):
            width, height = self._fitted(figure.cutout.size, larger)
            if share * width * height >= self.settings.min_area:
                return width, height
        return self._fitted(figure.cutout.size, self.settings.size[1])

    def _caption(self, sets: Sequence[SubjectSet], order: Sequence[int], phrase: str, rng: random.Random) -> str:
        """ "a fox on the left and a cup on the right, in the snow", and other words for it."""
        says = "name" if rng.random() < self.settings.name_prob else "class"
        nouns = [noun_of(sets[j].subject, says) for j in order]
        if nouns[0] == nouns[1]:
            nouns = [noun_of(sets[j].subject) for j in order]
        parts = [names(noun, noun)["a_name"] for noun in nouns]
        says_places = rng.random() < self.settings.place_prob
        if says_places:
            parts = [f"{part} on the {place}" for part, place in zip(parts, _PLACES, strict=True)]
            if rng.random() < 0.3:
                parts.reverse()
            together = " and ".join(parts)
        else:
            rng.shuffle(parts)
            together = rng.choice((" and ", " and ", " next to ", " beside ")).join(parts)
        opening = rng.choice(self.settings.openings).strip()
        form = rng.randrange(3)
        if phrase and form == 0 and not opening:
            return f"{phrase}, {together}"
        # "a fox on the left on the tiles" would be hard to read.
        comma = "," if form == 1 or says_places else ""
        return " ".join(filter(None, (opening, together))) + (f"{comma} {phrase}" if phrase else "")


def pairs(sets: Sequence[SubjectSet]) -> Iterator[tuple[SubjectSet, SubjectSet]]:
    """Each set of one subject with the next of its split that shows another class and is still alone."""
    waiting: list[SubjectSet] = []
    found: dict[str, tuple[SubjectSet, SubjectSet]] = {}
    for sample in sets:
        if "subjects" in sample.subject:
            continue
        other = next((other for other in waiting if other.split == sample.split and _differ(other, sample)), None)
        if other is None:
            waiting.append(sample)
        else:
            waiting.remove(other)
            found[other.key] = (other, sample)
    return (found[sample.key] for sample in sets if sample.key in found)


def _differ(a: SubjectSet, b: SubjectSet) -> bool:
    """Captions must tell the two apart, by their names and by their classes."""
    return all(noun_of(a.subject, what) != noun_of(b.subject, what) for what in ("name", "class"))


def _joined(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """What a set's JSON says of two subjects; the emoji source writes the same."""
    said = {what: f"{noun_of(a, what)} and {noun_of(b, what)}" for what in ("name", "class")}
    return {"id": f"{a['id']}+{b['id']}", **said, "subjects": [a, b]}
