"""Charts as SVG by matplotlib. Their colours are variables of the page's style sheet, light or dark as the reader's."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox

from jedi.report.document import Histogram, LineChart
from jedi.report.text import printable

SIZES = {
    LineChart: {"wide": (720, 420), "narrow": (360, 340)},
    Histogram: {"wide": (720, 280), "narrow": (360, 260)},
}
"""A chart is drawn twice, in CSS pixels, for a desk and for a phone: shrunk, its words could not be read."""
MARGINS = (56, 12, 28, 44)
"""Left, right, top, bottom of a chart: room for the axes' words."""
MARKERS = {"o": "\u25cf", "s": "\u25a0", "D": "\u25c6", "^": "\u25b2", "v": "\u25bc"}
"""matplotlib's markers of the series, one after another -> how the legend shows them."""
COLOURS = ("page", "ink", "soft", "line", *(f"s{i}" for i in range(8)))
"""Variables of page.css: background, text, secondary text, grid, and series."""
PLACES = ((7, 0), (7, 10), (7, -10), (-7, 0), (-7, 10), (-7, -10), (0, 13), (0, -13))
"""Where a point's label may stand, in pixels from the point."""


def _colour(name: str) -> str:
    """A colour that stands for a variable until :func:`svg` puts the variable there."""
    return f"#0102{COLOURS.index(name):02x}"


STYLE = {
    "axes.axisbelow": True, "axes.edgecolor": _colour("soft"), "axes.grid": True, "axes.labelcolor": _colour("ink"),
    "axes.labelsize": 13, "axes.spines.right": False, "axes.spines.top": False, "axes.titlecolor": _colour("ink"),
    "axes.titlelocation": "left", "axes.titlesize": 13, "axes.unicode_minus": False, "axes.xmargin": 0.07,
    "axes.ymargin": 0.07, "figure.dpi": 72, "font.family": "DejaVu Sans", "font.size": 12,
    "grid.color": _colour("line"), "path.simplify": False, "svg.fonttype": "none", "text.parse_math": False,
    "xaxis.labellocation": "right", "xtick.color": _colour("soft"), "xtick.major.pad": 5,
    "xtick.major.size": 0, "ytick.color": _colour("soft"), "ytick.major.pad": 5, "ytick.major.size": 0,
}  # fmt: skip


def draw(chart: LineChart | Histogram) -> dict[str, str]:
    """The chart in each of its sizes: what belongs between ``<svg viewBox="0 0 WIDTH HEIGHT">`` and ``</svg>``."""
    with style():
        return {size: svg(figure(chart, size), f"{chart.title} {size}") for size in SIZES[type(chart)]}


@contextmanager
def style() -> Iterator[None]:
    """Our settings, whatever the user's are; matplotlib says nothing of letters that its font lacks."""
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


def figure(chart: LineChart | Histogram, size: str) -> Figure:
    """The chart as matplotlib has it; the y axis has its label above, where it takes no width."""
    width, height = SIZES[type(chart)][size]
    result = Figure((width / 72, height / 72))
    left, right, top, bottom = MARGINS
    place = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = result.add_axes(place, title=printable(chart.y_label), xlabel=printable(chart.x_label))
    if isinstance(chart, Histogram):
        _draw_histogram(axes, chart, size)
    else:
        _draw_lines(axes, chart, size)
    return result


def svg(drawn: Figure, salt: str) -> str:
    """The drawing without what a page has already: no head, no style, no ids that are not needed."""
    for artist in drawn.findobj():
        artist.set_clip_on(False)
    file = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        drawn.savefig(file, format="svg", transparent=True, metadata=metadata)
    _, _, text = file.getvalue().partition("<svg")
    text = text.partition(">")[2].rpartition("</svg>")[0]
    text = re.sub(r"<!--.*?-->|<style.*?</style>|<g id=\"[^\"]*\"/>|font-family: [^;\"<]*; ", "", text, flags=re.DOTALL)
    text = re.sub(r" transform=\"rotate\(-0[^\"<]*\"", "", text)
    mark = lambda found: f'<g class="mark"><title>{found[1].replace("&amp;", "&")}</title>'
    text = re.sub(r'<g id="title:(.*?)">', mark, text)  # escaped twice: by us and by matplotlib
    text = re.sub(r'<g id="[^"]*">', "<g>", text).replace("xlink:href", "href")
    variable = lambda found: f"{found[1]}var(--{COLOURS[int(found[2], 16)]})"
    return re.sub(r"((?:fill|stroke): )#0102([0-9a-f]{2})", variable, text).strip()


def _titled(text: str) -> dict[str, Any]:
    """For an artist: what the browser shows where the pointer is over it."""
    return {"gid": f"title:{html.escape(printable(text))}"}


def _ticks(axes: Axes, size: str) -> None:
    for axis, count in ((axes.xaxis, 7 if size == "wide" else 4), (axes.yaxis, 5)):
        axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 5, 10]))
        formatter = ScalarFormatter(useOffset=False)
        formatter.set_scientific(False)
        axis.set_major_formatter(formatter)


def _draw_lines(axes: Axes, chart: LineChart, size: str) -> None:
    _ticks(axes, size)
    labels, lines = [], []
    for i, series in enumerate(chart.series):
        colour = _colour(f"s{i % 8}")
        xs, ys = [p.x for p in series.points], [p.y for p in series.points]
        lines += axes.plot(xs, ys, color=colour, linewidth=2)
        for p in series.points:
            if p.low is not None and p.high is not None:
                lines += axes.plot([p.x] * 2, [p.low, p.high], color=colour, marker="_", markersize=6)
            title = _titled(f"{series.name}{p.label and ', '}{p.label}: {p.x:.4g}, {p.y:.4g}")
            mark: dict[str, Any] = {"marker": list(MARKERS)[i % 5], "markersize": 8, "markeredgecolor": _colour("page")}
            axes.plot(p.x, p.y, color=colour, linestyle="", **mark, **title)
            labels.append((p.label or (series.name if len(series.points) == 1 else ""), p.x, p.y, colour))
    _place_labels(axes, labels, lines)


def _place_labels(axes: Axes, labels: list[tuple[str, float, float, str]], lines: list) -> None:
    """Puts labels beside their points where they cover nothing, long ones first; a label without such a place is left
    out: it is in the point's title and in the table under the chart."""
    axes.get_xlim()  # settles the scales
    frame = axes.get_window_extent()
    points = [axes.transData.transform((x, y)) for _, x, y, _ in labels]
    taken = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    paths = [line.get_transform().transform_path(line.get_path()) for line in lines]
    for text, x, y, colour in sorted(labels, key=lambda label: -len(label[0])):
        for dx, dy in PLACES if text else ():
            label = axes.annotate(
                printable(text), (x, y), (dx, dy), textcoords="offset points", color=colour, fontsize=11, va="center",
                ha={7: "left", -7: "right", 0: "center"}[dx],
            )  # fmt: skip
            box = label.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= axes.figure.bbox.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not box.count_overlaps(taken) and not any(x.intersects_bbox(box, False) for x in paths):
                taken.append(box)
                break
            label.remove()


def _draw_histogram(axes: Axes, chart: Histogram, size: str) -> None:
    _ticks(axes, size)
    edges = np.asarray(chart.edges, float)
    most = max(1, *np.sum(list(chart.counts.values()), 0)) * (1.05 + 0.09 * len(chart.lines))  # room for their labels
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, most))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    if np.array_equal(edges - 0.5, np.round(edges - 0.5)):  # bins of whole numbers
        axes.xaxis.set_major_locator(MaxNLocator(8 if size == "wide" else 4, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    pixel, floor = most / SIZES[Histogram][size][1], np.zeros(len(edges) - 1)
    for i, (name, counts) in enumerate(chart.counts.items()):
        for j, count in enumerate(counts):
            if count:
                high = max(count, 2 * pixel)  # what is rare is seen
                title = _titled(f"{name}, {edges[j]:.4g} to {edges[j + 1]:.4g}: {count:,}")
                style: dict[str, Any] = {"color": _colour(f"s{i % 8}"), "edgecolor": _colour("page"), "linewidth": 0.5}
                axes.bar(edges[j], high, edges[j + 1] - edges[j], floor[j], align="edge", **style)[0].set(**title)
                floor[j] += high
    for i, (text, x) in enumerate(sorted(chart.lines.items(), key=lambda line: line[1])):
        axes.axvline(x, color=_colour("ink"), linestyle="--")
        after = x < (edges[0] + edges[-1]) / 2  # the label stands on the side with more room
        axes.annotate(
            printable(text), (x, 1), (5 if after else -5, -15 * i), va="top", ha="left" if after else "right",
            xycoords=("data", "axes fraction"), textcoords="offset points", color=_colour("ink"),
        )  # fmt: skip
