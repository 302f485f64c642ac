"""Finding the panels of a photo collage by the image itself.

The image is cut in two along a straight line that runs right through it, and each part again, until nothing is left
to cut; any layout of rows, of columns, or of rows within columns can be cut so. A *gutter* is a band of one colour
with edges at both sides; a *seam* has no width, and shows only as a step from pixel to pixel. Steps are what
both are judged by: the edge of a panel is straight to the pixel over its whole length, which edges of things in
photos hardly ever are. Cuts that leave panels of about one size are likelier. An image of which no cut is found is no
collage, and neither is a photo in a frame, nor one object beside another on white.

Read `find_panels`, then `_Search`. The method is ours, the paper does not say what was used. Constants were fitted or
tried on collages of the photos of every second subject of DreamBooth; `benchmarks/split.py` reports on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from PIL import Image

from jedi.io.images import Box
from jedi.io.ranges import OneOf, Range

Evidence = Annotated[float, Range(-10, 10)]


@dataclass
class SplitSettings:
    """How collages are taken apart. Sets hold at most `images_per_set` images: of more panels, `choose` takes the
    first in reading order, or some at random (left in that order). A set with fewer than `min_panels` is dropped.

    Every panel gets the source's caption for panels (`provenance["panel_caption"]`), or the collage's where there is
    none. With `panel_captions` the panels, in reading order, get a caption each of `provenance["panel_captions"]`, if
    there are enough: right only where the collage was asked for with these scenes in this order."""

    min_panels: Annotated[int, Range(1, 64)] = 2
    """Training needs a reference and a target."""
    choose: Annotated[str, OneOf(("first", "random"))] = "first"
    panel_captions: bool = False
    trim: Annotated[int, Range(0, 64)] = 2
    """Pixels cut off at each side of a panel, so that nothing of a blurred seam is left."""
    min_side: Annotated[int, Range(8, 4096)] = 64
    """Pixels; a smaller panel is left out: enlarged, it would teach blur."""
    least: Annotated[float, Range(0.02, 0.5)] = 0.1
    """Nothing is cut to less than this fraction of the collage's width or height."""
    widest_gutter: Annotated[float, Range(0, 0.2)] = 0.06
    """As a fraction of the collage's shorter side; borders may be twice as wide."""
    # Evidence is explained in data_gen/stages/collage_split.py; a lower threshold finds more, also where nothing is.
    gutter_evidence: Evidence = 0.6
    """Of at most 1.5 (and a little for parts of usual size)."""
    border_evidence: Evidence = 0.6
    """Of at most 1.5."""
    seam_evidence: Evidence = 0.0
    first_seam_evidence: Evidence = 1.0
    """Of the strongest seam of a collage without gutters; photos hold weak ones."""
    search_size: Annotated[int, Range(256, 8192)] = 1024
    """Pixels of the longer side at which larger collages are searched."""


BLOCK = 8
"""Pixels along a line that are judged together."""
_LEAST = 3 * BLOCK
"""Pixels of a side of the smallest image, region or panel that is looked at."""

# What speaks for the edge of a panel at a line: steps from pixel to pixel, and that a stretch of the line changes its
# colour at once, however little. Both are log-likelihood ratios (natural logarithms), fitted to 150 and to 90 collages.
_STEP, _NEARBY, _BIAS = 2.15, -1.363, -2.1
"""For a pixel: weights of log(1 + step), of log(1 + the second greatest step nearby), and of 1."""
_STRETCH = 7
"""Blocks of a stretch, in an image of 56 or more; fewer in smaller ones. Signed steps are averaged over it: noise,
JPEG's and the grain of textures cancel out."""
_PIXELS, _CHANGE, _CHANGE_NEARBY, _BLOCK_BIAS = 0.48, 1.03, -0.63, -1.68
"""For a block: weights of its pixels' mean, of log(1 + 4 changes), of log(1 + 4 times the second greatest change
nearby), and of 1. A change is a stretch's mean step, 0 to 255; a quarter of a level counts as one."""
_OFFSETS = (-6, -5, -4, -3, -2, 2, 3, 4, 5, 6)
"""Rows that count as nearby. The adjoining ones do not: JPEG and resampling spread an edge over two."""
_CLIP = (-3.0, 1.5)
"""Least and most that a pixel, or a block, can say: neighbours are not independent."""
_FLAT = -2.1
"""What a pixel without any step says: less against an edge than texture that goes on (-3), for white meets white."""

# What is out of place, and by how much (pixels).
_SHIFT, _JUMP = 2, 15.0
"""A line may lie up to so many pixels aside, and change that from block to block, at this loss of summed evidence: a
panel out of place wins that back within a dozen blocks, chance does not."""
_REACH = 4
"""A panel's edge is looked for up to so many pixels away from its gutter: twice the shift."""
_SNUG = 6
"""A panel's side moves in by at most so many pixels, to the last straight step."""
_STRAIGHT = 0.5
"""Mean evidence of such a step."""

# Whether a line is a seam: log-odds by logistic regression over 17,000 lines, then tried by whole collages.
_MEAN, _WORST_THIRD, _RIVALS, _SIZES, _SIMPLE, _SEAM_BIAS = 4.0, 1.8, -3.9, 3.0, -26.0, -2.0
"""Weights of the line's mean evidence, of its worst third's, of what nine in ten lines of the region stay below (photos
of blinds and bricks are full of lines), of `_size_gain`, of the distance to the nearest simple fraction, and of 1."""
_FRACTIONS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4)
"""Where regions are mostly cut."""
_TRIED = 24
"""Lines of a region that are looked at closely; with 60 no result changed."""
_PANELS = 5
"""Panels that a collage is thought to have before anything is known of it."""

# What a gutter is.
_NEAR, _SAME = 28, 20
"""Greatest difference (0 to 255, any channel) of a gutter's pixels from its colour, with JPEG noise, and of a plain
line's pixels from their median."""
_PLAIN = 0.93
"""Share of a line's pixels that must have the gutter's colour, there or up to `_SHIFT` lines away."""
_COLOURS = 3
"""Colours of plain lines that are tried: a gutter's, a border's, and one more (a sky)."""
_BETTER = 0.5
"""Evidence by which gutters of a rarer colour must be better: JPEG paints thin lines of other colours beside them."""
_OPEN = 0.5
"""Evidence of a block of an edge behind which the gutter's colour goes on, so that nothing can be seen."""
_GUTTER_SIZES = 0.3
"""Weight of `_size_gain` for a gutter, beside the mean evidence of its edges."""
_WIDER = 6
"""Pixels by which a gutter may be wider or narrower than usual."""
_THIN = 4
"""A gutter of at most so many pixels is also tried as a seam: panels out of place may hide it (twice the shift)."""
_SURE = 4.0
"""Evidence of seams that are believed more than the gutters found: true ones mostly have 5 to 12, others up to 3."""
_EMPTY, _EMPTY_SHARE = 10, 0.98
"""A panel is empty where this share of its pixels differs from their median by at most so much (0 to 255)."""


@dataclass(frozen=True)
class _Cut:
    """Parts a region at lines `low` to `high` (equal at a seam) across axis 0 (top to bottom) or 1 (left to right)."""

    evidence: float
    axis: int
    low: int
    high: int

    def parts(self, region: Box) -> tuple[Box, Box]:
        first, second = list(region), list(region)
        first[3 - self.axis], second[1 - self.axis] = self.low, self.high
        return tuple(first), tuple(second)


@dataclass(frozen=True)
class _Layout:
    """Panels, and the cuts between them."""

    panels: list[Box]
    cuts: list[_Cut]

    @property
    def evidence(self) -> float:
        return sum(cut.evidence for cut in self.cuts)

    @property
    def gutter(self) -> int:
        """The usual width of what is between the panels; 0 if there is nothing."""
        return round(float(np.median([cut.high - cut.low for cut in self.cuts] or [0])))

    @property
    def area(self) -> float:
        """The usual area of a panel."""
        return float(np.median([_area(panel) for panel in self.panels]))


@dataclass(frozen=True)
class _Band:
    """Lines `low` to `high` of one colour, and the evidence of panels' edges above and below."""

    low: int
    high: int
    above: float
    below: float


class _View:
    """An image from one side: what is searched for are horizontal lines. Line y lies above row y of the pixels."""

    def __init__(self, pixels: np.ndarray) -> None:
        """`pixels`: uint8 `[H W 3]`."""
        self.pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.int16)  # [3 H W]
        self.steps = _steps(self.pixels)  # [H W // BLOCK]
        self.near = np.zeros(self.pixels.shape[1:], bool)  # which pixels have the colour that is looked for
        self.counts = np.zeros((0, 0), np.int32)  # of pixels near such ones, along each row up to each pixel

    def look_for(self, colour: np.ndarray) -> None:
        self.near = np.abs(self.pixels - colour[:, None, None]).max(0) <= _NEAR
        # Panels out of place leave no line of a thin gutter whole: a pixel counts where the colour is near.
        padded = np.pad(self.near, ((_SHIFT, _SHIFT), (0, 0)))
        around = np.any([padded[x : x + len(self.near)] for x in range(2 * _SHIFT + 1)], axis=0)
        self.counts = np.pad(around.cumsum(1, dtype=np.int32), ((0, 0), (1, 0)))

    def bands(self, low: int, high: int, start: int, end: int) -> Iterator[_Band]:
        """Bands of the colour between lines `low` and `high`; lines go from `start` to `end`."""
        inner = 3  # the ends of the lines may lie in another gutter's edge
        counts = self.counts[low:high, end - inner] - self.counts[low:high, start + inner]
        plain = counts >= _PLAIN * (end - start - 2 * inner)
        for top, bottom in (np.flatnonzero(np.diff(np.r_[0, plain, 0])).reshape(-1, 2) + low).tolist():
            top, bottom = top + _SHIFT * (top > low), bottom - _SHIFT * (bottom < high)
            if bottom > top:
                above = self._edge(slice(max(top - _REACH, 0), top + 2), top - _REACH, start, end)
                below = self._edge(slice(bottom - 1, bottom + _REACH + 1), bottom + _REACH + 6, start, end)
                yield _Band(top, bottom, above, below)

    def _edge(self, lines: slice, behind: int, start: int, end: int) -> float:
        """Mean evidence for a panel's edge at these lines; the six rows before `behind` tell whether it can be seen."""
        blocks = _blocks(start, end)
        rows = self.near[max(behind - 6, 0) : max(behind, 0), blocks.start * BLOCK : blocks.stop * BLOCK]
        if not len(rows):
            return _OPEN
        hidden = rows.reshape(len(rows), -1, BLOCK).mean((0, 2)) > 0.9
        return float(np.where(hidden, _OPEN, self.steps[lines, blocks].max(0)).mean())


def find_panels(image: Image.Image, config: SplitSettings) -> list[Box] | None:
    """The panels of a collage in reading order, without gutters and borders; None if it is no collage."""
    scale = min(1.0, config.search_size / max(image.size))
    size = [round(side * scale) for side in image.size]
    if min(size) < _LEAST:
        return None
    small = image.convert("RGB") if scale == 1 else image.convert("RGB").resize(size, Image.Resampling.BOX)
    panels = _Search(np.asarray(small), config).panels()
    if len(panels) < 2:
        return None
    return [
        tuple(min(round(x / scale), side) for x, side in zip(panel, image.size * 2, strict=True))
        for panel in _reading_order(panels)
    ]


class _Search:
    """The search of one image, uint8 `[H W 3]`. Boxes and lines are in its pixels."""

    def __init__(self, pixels: np.ndarray, config: SplitSettings) -> None:
        self.config = config
        self.views = _View(pixels), _View(pixels.transpose(1, 0, 2))
        height, width = pixels.shape[:2]
        self.whole: Box = (0, 0, width, height)
        self.least = [max(_LEAST, config.least * side) for side in (height, width)]
        self.widest = config.widest_gutter * min(height, width)

    def panels(self) -> list[Box]:
        """In any order; one or none if the image is no collage."""
        best, frame = _Layout([], []), self.whole
        colours = _plain_colours(self.views)
        for colour in colours:
            self._look_for(colour)
            frame = self._without_border(frame)
        for colour in colours:
            self._look_for(colour)
            layout = self._cut(frame, self._gutter, self.config.gutter_evidence)
            if layout.evidence > best.evidence + _BETTER:
                best = layout
        if len(best.panels) < 2 or best.gutter <= _THIN:
            least = self.config.seam_evidence if len(best.panels) < 2 else _SURE
            seams = self._cut(frame, self._seam, least)
            strongest = max((cut.evidence for cut in seams.cuts), default=-np.inf)
            if len(seams.panels) > len(best.panels) and strongest >= self.config.first_seam_evidence:
                best = seams
        return [self._snug(panel) for panel in best.panels if not self._is_empty(panel)]

    def _look_for(self, colour: np.ndarray) -> None:
        for view in self.views:
            view.look_for(colour)

    def _cut(self, frame: Box, find: Callable[[Box, int, float], _Cut | None], least: float) -> _Layout:
        """Cut twice: how wide gutters and how large panels usually are is known after the first time."""
        width, area = 0, _area(frame) / _PANELS
        for _ in range(2):
            layout = _divide(frame, partial(find, width=width, area=area), least)
            width, area = layout.gutter, layout.area
        return layout

    def _gutter(self, region: Box, width: int, area: float) -> _Cut | None:
        """The band through the region with the most evidence, given the usual width (0: not known) and panel area. One
        that is wider may be a gutter together with a panel's plain background: either side of it may be the gutter."""
        cuts = []
        most = min(self.widest, width + _WIDER) if width else self.widest
        for axis, view in enumerate(self.views):
            low, high, start, end = _sides(region, axis)
            for band in view.bands(low, high, start, end):
                places = []
                if width - _WIDER <= band.high - band.low <= most:
                    places += [((band.above + band.below) / 2, band.low, band.high)]
                if width and band.high - band.low > width + _SHIFT:
                    places += [(band.above, band.low, band.low + width), (band.below, band.high - width, band.high)]
                for evidence, top, bottom in places:
                    if min(top - low, high - bottom) >= self.least[axis]:
                        at = ((top + bottom) / 2 - low) / (high - low)
                        gain = float(_size_gain(np.asarray(at), _area(region) / area))
                        cuts.append(_Cut(evidence + _GUTTER_SIZES * gain, axis, top, bottom))
        return max(cuts, key=lambda cut: cut.evidence, default=None)

    def _seam(self, region: Box, width: int, area: float) -> _Cut | None:
        """The line through the region that is likeliest to be a seam, given the usual panel area (it has no width)."""
        cuts = []
        for axis, view in enumerate(self.views):
            low, high, start, end = _sides(region, axis)
            top, bottom = int(low + self.least[axis]), int(high - self.least[axis])
            blocks = view.steps[:, _blocks(start, end)]
            if bottom - top < 1 or blocks.shape[1] < 3:
                continue
            thirds = np.stack([_best_aside(x.mean(1))[top:bottom] for x in np.array_split(blocks, 3, axis=1)])
            tried = np.argsort(thirds.sum(0) + thirds.min(0), kind="stable")[-_TRIED:]
            at = (top + tried - low) / (high - low)
            evidence = (
                _MEAN * _line_evidence(blocks, top + tried)
                + _WORST_THIRD * thirds.min(0)[tried]
                + _RIVALS * np.percentile(thirds.mean(0), 90)
                + _SIZES * _size_gain(at, _area(region) / area)
                + _SIMPLE * np.abs(at - np.array(_FRACTIONS)[:, None]).min(0)
                + _SEAM_BIAS
            )
            line = top + int(tried[evidence.argmax()])
            cuts.append(_Cut(float(evidence.max()), axis, line, line))
        return max(cuts, key=lambda cut: cut.evidence, default=None)

    def _without_border(self, region: Box) -> Box:
        """A region without its border of the colour that is looked for."""
        sides = list(region)
        for axis, view in enumerate(self.views):
            low, high, start, end = _sides(region, axis)
            for band in view.bands(low, high, start, end):
                if band.high - band.low > 2 * self.widest:
                    continue
                if band.low == low and band.below >= self.config.border_evidence:
                    sides[1 - axis] = band.high
                elif band.high == high and band.above >= self.config.border_evidence:
                    sides[3 - axis] = band.low
        is_left = min(sides[2] - sides[0], sides[3] - sides[1]) >= _LEAST
        return tuple(sides) if is_left else region

    def _is_empty(self, panel: Box) -> bool:
        """Whether a panel is of one colour: a place in the layout that was left empty, the bar beside a photo."""
        left, top, right, bottom = panel
        pixels = self.views[0].pixels[:, top + 3 : bottom - 3 : 3, left + 3 : right - 3 : 3].reshape(3, -1)
        plain = np.abs(pixels - np.median(pixels, axis=1, keepdims=True)).max(0) <= _EMPTY
        return bool(plain.mean() > _EMPTY_SHARE)

    def _snug(self, panel: Box) -> Box:
        """A panel without what is left at its sides of a gutter, where panels are out of place or gutters thin."""
        sides = list(panel)
        for axis, view in enumerate(self.views):
            low, high, start, end = _sides(panel, axis)
            straight = view.steps[:, _blocks(start, end)].mean(1) >= _STRAIGHT
            sides[1 - axis] = next((x for x in range(low + _SNUG, low, -1) if straight[x]), low)
            sides[3 - axis] = next((x for x in range(high - _SNUG, high) if straight[x]), high)
        return tuple(sides)


def _divide(region: Box, find: Callable[[Box], _Cut | None], least: float) -> _Layout:
    """A region cut, and cut again, where `find` has a cut of enough evidence."""
    cut = find(region)
    if cut is None or cut.evidence < least:
        return _Layout([region], [])
    first, second = (_divide(part, find, least) for part in cut.parts(region))
    return _Layout(first.panels + second.panels, [cut, *first.cuts, *second.cuts])


def _size_gain(at: np.ndarray, times: float) -> np.ndarray:
    """How much nearer to the usual area of a panel a region of `times` that area comes by being cut at `at` (0 to 1): a
    difference of logarithms. A part that is larger may be cut again, so that much beyond twice the area is all one."""
    parts = np.log(times * np.stack([at, 1 - at]))
    return min(abs(np.log(times)), np.log(4)) - np.where(parts < np.log(2), np.abs(parts), np.log(2)).sum(0)


def _steps(pixels: np.ndarray) -> np.ndarray:
    """int16 `[3 H W]` -> `[H W // BLOCK]`: the evidence of each block for the edge of a panel above its row.

    A step speaks for an edge by its height, and by how far it stands out from the steps nearby in the same column:
    from the second greatest of them, so that a thin gutter's other edge does not count against it."""
    height, blocks = pixels.shape[1], pixels.shape[2] // BLOCK
    steps, nearby = _and_nearby(np.abs(np.diff(pixels, axis=1, prepend=pixels[:, :1])).max(0))
    logarithms = np.log1p(np.arange(256, dtype=np.float32))
    of_pixels = _STEP * logarithms[steps] + _NEARBY * logarithms[nearby] + _BIAS
    of_pixels[(steps <= 1) & (nearby <= 1)] = _FLAT
    of_pixels = _in_blocks(of_pixels.clip(*_CLIP))

    colours = _in_blocks(pixels).astype(np.float32)
    signed = np.diff(colours, axis=1, prepend=colours[:, :1])
    half = min(_STRETCH, blocks // 8) // 2
    signed = np.pad(signed, ((0, 0), (0, 0), (half, half)), mode="edge")
    stretches = np.mean([signed[..., x : x + blocks] for x in range(2 * half + 1)], axis=0)
    changes, nearby = _and_nearby(np.abs(stretches).max(0))
    of_changes = _CHANGE * np.log1p(4 * changes) + _CHANGE_NEARBY * np.log1p(4 * nearby)
    return (_PIXELS * of_pixels + of_changes + _BLOCK_BIAS).clip(*_CLIP).reshape(height, blocks)


def _in_blocks(rows: np.ndarray) -> np.ndarray:
    """`[... W]` -> `[... W // BLOCK]`: the mean of each block."""
    blocks = rows.shape[-1] // BLOCK
    return rows[..., : blocks * BLOCK].reshape(*rows.shape[:-1], blocks, BLOCK).mean(-1)


def _and_nearby(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[H n]` -> the same, and of each place the second greatest step nearby in its column."""
    reach = max(_OFFSETS)
    padded = np.pad(steps, ((reach, reach), (0, 0)), mode="reflect")
    first, second = np.zeros_like(steps), np.zeros_like(steps)
    for offset in _OFFSETS:
        other = padded[reach + offset : reach + offset + len(steps)]
        np.maximum(second, np.minimum(first, other), out=second)
        np.maximum(first, other, out=first)
    return steps, second


def _best_aside(lines: np.ndarray) -> np.ndarray:
    """`[H]` -> the greatest of each line and those up to `_SHIFT` aside."""
    padded = np.pad(lines, _SHIFT, mode="edge")
    return np.max([padded[x : x + len(lines)] for x in range(2 * _SHIFT + 1)], axis=0)


def _line_evidence(steps: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """`[H blocks]` -> mean evidence of these lines. A line may jump aside, at a loss: the best way is found by going
    from block to block with, for each line, the best sum that ends at each of its offsets."""
    offsets = np.arange(-_SHIFT, _SHIFT + 1)[:, None]
    places = steps[(lines + offsets).clip(0, len(steps) - 1)]  # [offsets lines blocks]
    total = places[..., 0]
    for block in range(1, places.shape[-1]):
        total = np.maximum(total, total.max(0) - _JUMP) + places[..., block]
    return total.max(0) / places.shape[-1]


def _plain_colours(views: Sequence[_View]) -> list[np.ndarray]:
    """Colours of lines that have one colour all through, most frequent first: gutters have, and borders."""
    found = []
    for view in views:
        lines = view.pixels[..., ::4]
        medians = np.median(lines, axis=2).astype(np.int16)
        found.append(medians.T[(np.abs(lines - medians[..., None]).max(0) <= _SAME).mean(1) >= _PLAIN])
    left, colours = np.concatenate(found), []
    while len(left) > 1 and len(colours) < _COLOURS:
        alike = np.abs(left[:, None] - left).max(2) <= _SAME
        most = alike[alike.sum(1).argmax()]
        colours.append(np.median(left[most], axis=0).astype(np.int16))
        left = left[~most]
    return colours


def _reading_order(panels: Sequence[Box]) -> list[Box]:
    """Row by row from the top, each from left to right. A panel belongs to the row of the highest one left if its
    middle lies beside that one."""
    left, ordered = sorted(panels, key=lambda box: (box[1], box[0])), []
    while left:
        row = [box for box in left if (box[1] + box[3]) / 2 <= left[0][3]]
        ordered += sorted(row)
        left = [box for box in left if box not in row]
    return ordered


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _sides(region: Box, axis: int) -> tuple[int, int, int, int]:
    """Lines from low to high, and pixels of a line from start to end."""
    return region[1 - axis], region[3 - axis], region[axis], region[axis + 2]


def _blocks(start: int, end: int) -> slice:
    """The blocks that lie wholly within these pixels."""
    return slice(-(-start // BLOCK), end // BLOCK)
