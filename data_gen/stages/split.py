"""The stage `split`: from a photo collage to its panels, by the picture itself.

Panels are found by cutting the picture in two along straight lines that run right through it, and each part again,
until nothing is left to cut; any layout of rows, of columns, or of rows within columns can be cut so. Two kinds of
cuts are known. A *gutter* is a band of one colour with an edge at each side; a *seam* has no width, and shows only as
a step from pixel to pixel. Steps are what both are judged by: the edge of a panel is straight to the pixel over
its whole length, which edges of things in photos hardly ever are (`_steps`). A picture of which no cut is found
is no collage, and neither is a photo in a frame, nor one object beside another on white.

All thresholds were found with collages made of the photos of every second subject of DreamBooth;
`benchmarks/split.py` reports on the others. The method is ours, the paper does not say what was used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from data_gen.checks import check_number
from jedi.config import ConfigError
from jedi.images import Box

if TYPE_CHECKING:
    pass

CHOICES = ("first", "random")

BLOCK = 8
"""Pixels along a line that are judged together."""
_STEP = (2.15, -1.363, -2.1)
"""Log-likelihood ratio of a pixel's step on a seam against elsewhere: of log(1 + step), log(1 + the steps nearby), 1.
A fit to histograms of both over 150 collages. Cut off at `_CLIP`, for neighbours are not independent."""
_CLIP = (-3.0, 1.5)
_JUMP = 15.0
"""What a line's evidence loses (in blocks) where it goes on up to `_SHIFT` pixels aside, at a panel out of place."""
_SHIFT = 2
_SIZE_WEIGHT = 0.8
"""Weight of a cut's logarithmic size prior: two halves are likelier panels than a sliver and the rest."""
_PLAIN = 0.93
"""Share of a line's pixels that must have the gutter's colour; panels out of place may hold the others."""
_NEAR, _SAME = 28, 20
"""Greatest difference (0 to 255, any channel) of a gutter's pixels, with their JPEG noise, and of its lines."""
_THIN = 4
PARTS = 3
WORST = 0.3
ALIGN = 1.0
SEAM = (3.5, 1.5, 3.0, -2.78, -9.0, -1.5)
THINSEAM = 1
FLAT = -2.1
COVER=.6
OPEN=.5
PT=10
"""A gutter of at most so many pixels is also tried as a seam: panels out of place may leave none of its lines whole."""
_SNUG = 6
"""A panel's side moves in by at most so many pixels, to the last straight step."""


@dataclass
class SplitConfig:
    """How collages are taken apart. Sets hold at most `images_per_set` pictures: of more panels, `choose` takes the
    first in reading order, or some at random (left in that order). A set with fewer than `min_panels` is dropped.

    `panel_captions` gives each panel the caption that the source wrote for it, where it wrote enough; otherwise
    all get the one caption for panels, or the collage's."""

    min_panels: int = 2  # training needs a reference and a target
    choose: str = "first"
    panel_captions: bool = True
    trim: int = 2  # pixels cut off at each side of a panel, so that nothing of a blurred seam is left
    min_side: int = 64  # pixels; a smaller panel is left out: enlarged, it would teach blur
    least: float = 0.1  # nothing is cut to less than this fraction of the collage's width or height
    widest_gutter: float = 0.06  # as a fraction of the collage's shorter side
    gutter_evidence: float = 0.85  # of at most 1.5 (and a little for equal parts): see the module's constants
    seam_evidence: float = 0.0
    first_seam_evidence: float = 1.0  # the strongest seam of a collage without gutters; lower takes photos for collages
    search_size: int = 1024  # pixels of the longer side at which larger collages are searched

    def __post_init__(self) -> None:
        if self.choose not in CHOICES:
            raise ConfigError(f"split.choose is {self.choose!r}; expected one of {', '.join(CHOICES)}")
        check_number("split.min_panels", self.min_panels, 1, 64)
        check_number("split.trim", self.trim, 0, 64)
        check_number("split.min_side", self.min_side, 8, 4096)
        check_number("split.least", self.least, 0.02, 0.5)
        check_number("split.widest_gutter", self.widest_gutter, 0.0, 0.2)
        for name in ("gutter_evidence", "seam_evidence", "first_seam_evidence"):
            check_number(f"split.{name}", getattr(self, name), -10.0, 10.0)
        check_number("split.search_size", self.search_size, 256, 8192)


@dataclass(frozen=True)
class _Cut:
    """Parts region at `low` to `high` (equal at a seam) across axis 0 (top to bottom) or 1 (left to right)."""

    evidence: float
    axis: int
    low: int
    high: int


@dataclass(frozen=True)
class _Band:
    """Lines `low` to `high` of one colour, and what stands at its two edges: `steps` [2 n] the evidence of each block,
    `open` [2 n] where the colour goes on behind the edge, so that there is nothing to be seen."""

    low: int
    high: int
    steps: np.ndarray
    open: np.ndarray

    def evidence(self, *sides: int) -> float:
        """Mean evidence of the better of these sides over all blocks that are not open there."""
        hidden = self.open[list(sides)].all(0)
        steps = np.where(self.open, _CLIP[0], self.steps)[list(sides)].max(0)
        return float(np.where(hidden, OPEN, steps).mean())


class _View:
    """A picture from one side: what is searched for are horizontal lines. Line y lies above row y of the pixels."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels.astype(np.int16)
        self.steps = _steps(self.pixels)
        self.near = self.counts = np.zeros((0, 0))

    def look_for(self, colour: np.ndarray) -> None:
        """Notes which pixels have about this colour."""
        self.near = np.abs(self.pixels - colour).max(2) <= _NEAR
        self.counts = np.pad(self.near.cumsum(1, dtype=np.int32), ((0, 0), (1, 0)))


def find_panels(image: Image.Image, config: SplitConfig) -> list[Box] | None:
    """The panels of an RGB collage in reading order, without gutters and borders; None if it is no collage."""
    scale = min(1.0, config.search_size / max(image.size))
    small = image if scale == 1 else image.resize([round(x * scale) for x in image.size], Image.Resampling.BOX)
    panels = _search(np.asarray(small.convert("RGB")), config)
    if len(panels) < 2:
        return None
    return [tuple(round(x / scale) for x in panel) for panel in _reading_order(panels)]


def _search(pixels: np.ndarray, config: SplitConfig) -> list[Box]:
    """The panels of `[H W 3]` uint8: one or none if it is no collage."""
    views = _View(pixels), _View(pixels.transpose(1, 0, 2))
    whole = (0, 0, pixels.shape[1], pixels.shape[0])
    least = [max(3 * BLOCK, config.least * side) for side in pixels.shape[:2]]
    widest = config.widest_gutter * min(pixels.shape[:2])

    best: tuple[list[Box], list[_Cut]] = [], []
    frame = whole
    best_score = 0
    for colour in _plain_colours(views):
        for view in views:
            view.look_for(colour)
        gutter = None
        for _ in range(2):  # a gutter beside a plain panel has one edge only: its width must be known from others
            cuts: list[_Cut] = []
            inside = _trim(views, whole, widest, config.gutter_evidence)
            panels = _divide(
                views, inside, lambda region: _gutter(views, region, least, widest, gutter), config.gutter_evidence, cuts
            )
            gutter = _width(cuts)
        score = sum(cut.evidence for cut in cuts)
        if gutter is not None and gutter <= 8:
            more = []
            panels = [x for panel in panels for x in _divide(views, panel, lambda region: _coloured_seam(views, region, least), config.seam_evidence, more)]
        panels = [panel for panel in panels if not _is_plain(views, panel)]
        if score > best_score:
            best, best_score = (panels, cuts), score
        frame = _trim(views, frame, widest, config.gutter_evidence)
    panels, cuts = best
    if len(panels) < 2 or (_width(cuts) or 0) <= _THIN:
        cuts = []
        seams = _divide(views, frame, lambda region: _seam(views, region, least), config.seam_evidence, cuts)
        known = tuple([c.low for c in cuts if c.axis == a] for a in (0, 1))
        seams = [y for x in seams for y in _divide(views, x, lambda region: _seam(views, region, least, known), config.seam_evidence, cuts)]
        seams = [panel for panel in seams if not _is_plain(views, panel)]
        strongest = max((cut.evidence for cut in cuts), default=-np.inf)
        if len(seams) > len(panels) and strongest >= config.first_seam_evidence:
            panels = seams
    return [_snug(views, panel) for panel in panels]


def _steps(pixels: np.ndarray) -> np.ndarray:
    """`[H W 3]` -> `[H W // BLOCK]`: the evidence for the edge of a panel above each row, mean over each block.

    A pixel's step is its greatest difference from the one above over the channels. It speaks for an edge by its
    height, and by how far it stands out from the steps of the same column within 6 rows: the second greatest of
    them, so that a thin gutter's other edge does not count against it. Adjoining rows are left out, for JPEG and
    resampling spread an edge over two."""
    steps = np.zeros(pixels.shape[:2], np.int16)
    steps[1:] = np.abs(np.diff(pixels, axis=0)).max(2)
    height, blocks = len(steps), pixels.shape[1] // BLOCK
    padded = np.pad(steps, ((6, 6), (0, 0)), mode="reflect")
    first, second = np.zeros_like(steps), np.zeros_like(steps)
    for offset in (-6, -5, -4, -3, -2, 2, 3, 4, 5, 6):
        other = padded[6 + offset : 6 + offset + height]
        np.maximum(second, np.minimum(first, other), out=second)
        np.maximum(first, other, out=first)
    logarithms = np.log1p(np.arange(256, dtype=np.float32))
    evidence = _STEP[0] * logarithms[steps] + _STEP[1] * logarithms[second] + _STEP[2]
    evidence[(steps <= 1) & (second <= 1)] = FLAT
    evidence = evidence.clip(*_CLIP)[:, : blocks * BLOCK]
    return evidence.reshape(height, blocks, BLOCK).mean(2)


def _sides(region: Box, axis: int) -> tuple[int, int, int, int]:
    """Lines from low to high, and pixels of a line from start to end."""
    return region[1 - axis], region[3 - axis], region[axis], region[axis + 2]


def _blocks(start: int, end: int) -> slice:
    """The blocks that lie wholly within these pixels."""
    return slice(-(-start // BLOCK), end // BLOCK)


def _divide(
    views: tuple[_View, _View], region: Box, find: Callable[[Box], _Cut | None], least: float, cuts: list[_Cut]
) -> list[Box]:
    """The parts of a region, cut and cut again where `find` has a cut of enough evidence; adds them to `cuts`."""
    cut = find(region)
    if cut is None or cut.evidence < least:
        return [region]
    cuts.append(cut)
    first, second = list(region), list(region)
    first[3 - cut.axis], second[1 - cut.axis] = cut.low, cut.high
    return [x for part in (first, second) for x in _divide(views, tuple(part), find, least, cuts)]


def _size_prior(low: int, high: int, position: Any, whole: float) -> Any:
    return _SIZE_WEIGHT * np.log(3 * np.minimum(position - low, high - position) / whole)


def _seam(views: tuple[_View, _View], region: Box, least: Sequence[float], known=((), ())) -> _Cut | None:
    """The line through the region with the most evidence."""
    best = None
    for axis, view in enumerate(views):
        low, high, start, end = _sides(region, axis)
        top, bottom = int(low + least[axis]), int(high - least[axis])
        blocks = view.steps[:, _blocks(start, end)]
        if bottom - top < 1 or blocks.shape[1] < 3:
            continue
        parts = [_line_evidence(part, top, bottom) for part in np.array_split(blocks, 3, axis=1)]
        full = _line_evidence(blocks, top, bottom)
        at = np.arange(top, bottom)
        prior = np.log(3 * np.minimum(at - low, high - at) / len(view.steps))
        loc = np.min([abs((at - low) / (high - low) - j / n) for n in (2, 3, 4) for j in range(1, n)], axis=0)
        w = SEAM
        evidence = w[0] * full + w[1] * np.min(parts, axis=0) + w[2] * prior + w[3] * np.percentile(full, 90) + w[4] * loc + w[5]
        for line in known[axis]:
            if ALIGN and top <= line < bottom:
                evidence[max(line - 3 - top, 0) : line + 4 - top] += ALIGN
        line = int(evidence.argmax())
        if best is None or evidence[line] > best.evidence:
            best = _Cut(float(evidence[line]), axis, top + line, top + line)
    return best


def _coloured_seam(views, region, least):
    cut = _seam(views, region, least)
    if cut is None:
        return None
    low, high, start, end = _sides(region, cut.axis)
    seen = views[cut.axis].near[cut.low - 3 : cut.low + 3, start:end].any(0).mean()
    return cut if seen >= COVER else None


def _line_evidence(steps: np.ndarray, top: int, bottom: int) -> np.ndarray:
    """`[H n]` -> mean evidence of the lines from top to bottom. A line may jump aside, at a loss: the best way is
    found by going from block to block with, for each line, the best sum that ends at each of its offsets."""
    padded = np.pad(steps, ((_SHIFT, _SHIFT), (0, 0)), mode="edge")
    offsets = np.stack([padded[top + x : bottom + x].T for x in range(2 * _SHIFT + 1)], axis=1)  # [n 5 lines]
    total = offsets[0]
    for block in offsets[1:]:
        total = np.maximum(total, total.max(0) - _JUMP) + block
    return total.max(0) / len(offsets)


def _plain_colours(views: tuple[_View, _View]) -> list[np.ndarray]:
    """At most three colours of lines that have one colour all through, most frequent first: gutters have, and
    borders."""
    found = []
    for view in views:
        lines = view.pixels[:, ::4]
        medians = np.median(lines, axis=1).astype(np.int16)
        found.append(medians[(np.abs(lines - medians[:, None]).max(2) <= _SAME).mean(1) >= _PLAIN])
    left, colours = np.concatenate(found), []
    while len(left) > 1 and len(colours) < 3:
        alike = np.abs(left[:, None] - left).max(2) <= _SAME
        most = alike[alike.sum(1).argmax()]
        colours.append(np.median(left[most], axis=0))
        left = left[~most]
    return colours


def _bands(view: _View, low: int, high: int, start: int, end: int) -> list[_Band]:
    """The bands of the colour that is looked for, of two lines or more."""
    inner = 3  # the ends of the lines may lie in another gutter's edge
    shares = (view.counts[low:high, end - inner] - view.counts[low:high, start + inner]) / (end - start - 2 * inner)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], shares >= _PLAIN, [0]]))).reshape(-1, 2) + low
    blocks, bands = _blocks(start, end), []
    for top, bottom in ends[ends[:, 1] - ends[:, 0] >= 2].tolist():
        steps, hidden = [], []
        # Panels out of place have their edges a few pixels away; what lies behind them tells whether one can be seen.
        edges = (view.steps[max(top - 4, 0) : top + 2], view.steps[bottom - 1 : bottom + 5])
        behind = (view.near[max(top - 10, 0) : max(top - 4, 0)], view.near[bottom + 4 : bottom + 10])
        for edge, pixels in zip(edges, behind, strict=True):
            steps.append(edge[:, blocks].max(0))
            pixels = pixels[:, blocks.start * BLOCK : blocks.stop * BLOCK]
            count = blocks.stop - blocks.start
            hidden.append(
                pixels.reshape(-1, count, BLOCK).mean((0, 2)) > 0.9 if len(pixels) else np.ones(count, bool)
            )
        bands.append(_Band(top, bottom, np.stack(steps), np.stack(hidden)))
    return bands


def _gutter(
    views: tuple[_View, _View], region: Box, least: Sequence[float], widest: float, usual: int | None
) -> _Cut | None:
    """The band through the region with the most evidence at its edges. One that is much wider than usual is a gutter
    together with a panel's plain background: either side of it may be the gutter."""
    best = None
    for axis, view in enumerate(views):
        low, high, start, end = _sides(region, axis)
        for band in _bands(view, low, high, start, end):
            if band.low == low or band.high == high:
                continue
            if band.high - band.low <= (widest if usual is None else min(widest, usual + 6)):
                choices = [(band.evidence(0, 1), band.low, band.high)]
            elif usual is None:
                continue
            else:
                width = usual
                choices = [
                    (band.evidence(0), band.low, band.low + width),
                    (band.evidence(1), band.high - width, band.high),
                ]
            for evidence, top, bottom in choices:
                if top - low < least[axis] or high - bottom < least[axis]:
                    continue
                evidence += min(0.0, float(_size_prior(low, high, (top + bottom) / 2, len(view.steps))))
                if best is None or evidence > best.evidence:
                    best = _Cut(evidence, axis, top, bottom)
    return best


def _width(cuts: Sequence[_Cut]) -> int | None:
    """The usual width of the gutters; None if there are none."""
    widths = [cut.high - cut.low for cut in cuts if cut.high > cut.low]
    return round(float(np.median(widths))) if widths else None


def _trim(views: tuple[_View, _View], region: Box, widest: float, least: float) -> Box:
    """A region without its border of the colour that is looked for."""
    sides = list(region)
    for axis, view in enumerate(views):
        low, high, start, end = _sides(tuple(sides), axis)
        for band in _bands(view, low, high, start, end):
            if band.high - band.low > 2 * widest:
                continue
            if band.low == low and band.evidence(1) >= least:
                sides[1 - axis] = band.high
            elif band.high == high and band.evidence(0) >= least:
                sides[3 - axis] = band.low
    return tuple(sides)


def _is_plain(views: tuple[_View, _View], panel: Box) -> bool:
    """Whether a panel is of one colour: a place in the layout that was left empty, the bar beside a photo."""
    left, top, right, bottom = panel
    pixels = views[0].pixels[top + 3 : bottom - 3 : 3, left + 3 : right - 3 : 3].reshape(-1, 3)
    return bool((np.abs(pixels - np.median(pixels, axis=0)).max(1) <= PT).mean() > 0.98)


def _snug(views: tuple[_View, _View], panel: Box) -> Box:
    """A panel without what is left at its sides of a gutter, where panels are out of place or gutters thin."""
    sides = list(panel)
    for axis, view in enumerate(views):
        low, high, start, end = _sides(panel, axis)
        steps = view.steps[:, _blocks(start, end)].mean(1)
        for side, line, inwards in ((1 - axis, low, 1), (3 - axis, high, -1)):
            for offset in range(_SNUG, 0, -1):
                if steps[line + inwards * offset] >= 0.5:
                    sides[side] = line + inwards * offset
                    break
    return tuple(sides)


def _reading_order(panels: Sequence[Box]) -> list[Box]:
    """Row by row from the top, each from left to right. A panel belongs to the row of the highest one left if its
    middle lies beside that one."""
    left, ordered = sorted(panels, key=lambda box: (box[1], box[0])), []
    while left:
        row = [box for box in left if (box[1] + box[3]) / 2 <= left[0][3]]
        ordered += sorted(row)
        left = [box for box in left if box not in row]
    return ordered
