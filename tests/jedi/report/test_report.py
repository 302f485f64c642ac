"""jedi.report: the same figures in a page, in JSON and in a terminal; nothing a caption says can act."""

import base64
import io
import json
import math
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from PIL import Image

from jedi.errors import InputError
from jedi.io.images import ImageError
from jedi.report import charts, page
from jedi.report.document import (
    Cell,
    Gallery,
    GalleryImage,
    Histogram,
    LineChart,
    Point,
    Report,
    ReportError,
    Series,
    Table,
    Text,
)
from jedi.report.page import write_report
from jedi.report.text import markdown, printable, text_table

HOSTILE = """</title></style></table>"'><script>top.hit=1</script><img src=x onerror="top.hit=1">{{ 7*7 }}&amp;"""


def noise(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """An image whose every pixel differs from its neighbours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def scores() -> Table:
    return Table(
        "Scores",
        ["CLIP-T", "DINO", "n"],
        [
            ("1 reference", {"CLIP-T": Cell(0.304, 0.3, 0.31), "DINO": Cell(0.619, 0.6, 0.64), "n": 3000}),
            ("3 references", {"CLIP-T": Cell(0.301, 0.29, 0.31), "DINO": Cell(0.655, 0.63, 0.67), "n": 3000}),
            ("oracle", {"DINO": Cell(0.774, 0.75, 0.8), "n": 158}),
            ("copy", {"CLIP-T": 0.21, "DINO": "as given"}),
        ],
        note="95 % intervals.",
        groups=[("This model", 2), ("For comparison", 2)],
        better={"CLIP-T": "higher", "DINO": "lower"},
    )


def trade() -> LineChart:
    strong = Series("3 references", [Point(0.28, 0.8, "g = 1", 0.79, 0.81), Point(0.3, 0.7, "g = 5", 0.68, 0.72)])
    return LineChart("Trade", "prompt", "identity", [strong, Series("oracle", [Point(0.31, 0.9)])], note="As said.")


def lengths(**changes) -> Histogram:
    plain = Histogram("Lengths", "score", "sets", [0.0, 0.1, 0.2, 0.3], {"kept": [0, 3, 400], "dropped": [5, 1, 0]})
    return replace(plain, lines={"min_mean 0.1": 0.1}, note="As said.", **changes)


def cases(image: Image.Image | Path) -> Gallery:
    made = GalleryImage(image, "a toy in the snow", {"CLIP-I": 0.91, "retrieval": "1st of 100"})
    return Gallery("Best", [[GalleryImage(noise(seed=1), reference=True), made]], labels=["teddy"], note="By CLIP-I.")


def whole(image: Image.Image | Path | None = None) -> Report:
    """A report with one section of each kind, two of galleries."""
    grid = Gallery("Grid", [[GalleryImage(noise(500, 250, seed=2), "wide"), None]], columns=["ours", "theirs"])
    sections = [scores(), trade(), cases(image or noise()), grid, Text("Notes", "First.\n\nSecond.")]
    return Report("All of it", ["It works.", "Mostly."], sections, {"model": "jedi-tiny", "date": "2026-11-24"})


class Elements(HTMLParser):
    """What a parser sees of a page: elements with their attributes, the text of each."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def words(self, tag: str) -> list[str]:
        return [text.strip() for name, text in self.texts if name == tag and text.strip()]


def read(report: Report, folder: Path) -> Elements:
    elements = Elements(write_report(report, folder).read_text(encoding="utf-8"))
    assert not elements.open
    return elements


def image_of(attributes: dict[str, str | None]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition("base64,")[2]))).convert("RGB")


# ---- in a terminal


def test_a_table_in_a_terminal():
    assert text_table(scores()).splitlines() == [
        "Scores",
        "                          CLIP-T ↑                DINO ↓      n",
        "-- This model -------------------------------------------------",
        "1 reference   0.304 [0.300, 0.310]  0.619 [0.600, 0.640]  3,000",
        "3 references  0.301 [0.290, 0.310]  0.655 [0.630, 0.670]  3,000",
        "-- For comparison ---------------------------------------------",
        "oracle                           -  0.774 [0.750, 0.800]    158",
        "copy                         0.210              as given      -",
        "95 % intervals.",
    ]


def test_formats_and_a_table_without_groups():
    table = Table("T", ["accuracy"], [("a", {"accuracy": Cell(0.5, 0.25, 0.75)})], formats={"accuracy": ".0%"})
    assert text_table(table).splitlines() == ["T", "         accuracy", "-" * 17, "a  50% [25%, 75%]"]


def test_a_group_without_rows_is_not_shown():
    table = replace(scores(), groups=[("None of these", 0), ("All", 4), ("Nor these", 0)])
    lines = text_table(table).splitlines()
    assert [line.strip("- ") for line in lines if line.startswith("--")] == ["All"]
    assert not any(cell["best"] for row in page._table(table)["rows"] for cell in row["cells"])


def test_wide_and_combining_letters_keep_columns_in_line():
    rows = [("犬のぬいぐるみ", {"n": 1}), ("cafe\u0301", {"n": 2}), ("plain", {"n": 3})]
    lines = text_table(Table("T", ["n"], rows)).splitlines()[3:]
    assert lines == ["犬のぬいぐるみ  1", "cafe\u0301" + " " * 12 + "2", "plain" + " " * 11 + "3"]


def test_a_terminal_gets_no_commands():
    text = text_table(Table("T\x1b[2J", ["n\r"], [("a\x1b]0;x\x07\nb", {"n\r": "\u202etxt"})], note="\x9b1m"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "a\ufffd]0;x\ufffd b" in text


# ---- JSON


def test_json_holds_the_figures(tmp_path):
    (tmp_path / "images").mkdir()
    noise().save(tmp_path / "images" / "a.png")
    write_report(whole(tmp_path / "images" / "a.png"), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert record["title"] == "All of it" and record["summary"] == ["It works.", "Mostly."]
    assert record["details"] == {"model": "jedi-tiny", "date": "2026-11-24"}
    table, curve, best, grid, text = record["sections"]
    assert [x["kind"] for x in record["sections"]] == ["table", "linechart", "gallery", "gallery", "text"]
    assert table["rows"][0]["cells"]["CLIP-T"] == {"value": 0.304, "low": 0.3, "high": 0.31}
    assert table["rows"][2]["cells"]["CLIP-T"] == {"value": None, "low": None, "high": None}
    assert table["groups"] == [{"title": "This model", "rows": 2}, {"title": "For comparison", "rows": 2}]
    assert curve["series"][0]["points"][1] == {"x": 0.3, "y": 0.7, "low": 0.68, "high": 0.72, "label": "g = 5"}
    made = {"caption": "a toy in the snow", "scores": {"CLIP-I": 0.91, "retrieval": "1st of 100"}, "reference": False}
    assert best["rows"][0][1] == {"image": "../images/a.png", **made}
    assert best["rows"][0][0]["image"] is None
    assert grid["rows"][0][1] is None
    assert text["body"] == "First.\n\nSecond."


def test_markdown_holds_texts_tables_and_details():
    details = {"model": "jedi-tiny", "limits": "one\ntwo"}
    table = Table("Kinds", ["n"], [("pots | pans", {"n": 1234}), ("cups", {})], note="Counted.", groups=[("things", 2)])
    sections = [scores(), lengths(), cases(noise()), table, Text("How", "    make it\n\nAnd so on.")]
    text = markdown(Report("All of it", ["It works."], sections, details))
    lines = text.splitlines()
    assert lines[:3] == ["# All of it", "", "It works."] and text.endswith("- limits:\n  - one\n  - two\n")
    assert "| This model | 1 reference | 0.304 [0.300, 0.310] | 0.619 [0.600, 0.640] | 3,000 |" in lines
    assert "| things | pots \\| pans | 1,234 |" in lines and "| things | cups | - |" in lines and "Counted." in lines
    assert "    make it" in lines and "- model: jedi-tiny" in lines
    assert [line for line in lines if line.startswith("## ")] == ["## Scores", "## Kinds", "## How", "## Details"]


# ---- the page


def test_the_page_stands_alone(tmp_path):
    html = write_report(whole(), tmp_path).read_text(encoding="utf-8")
    elements = Elements(html)
    assert html.startswith("<!doctype html>")
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in elements.elements}
    for tag, attributes in elements.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "action", "data"):
                assert value.startswith(("data:image/", "#")), (tag, value)
    assert not re.search(r"url\(|@import|https?:", html)
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in elements.of("meta"))


def test_the_page_says_what_the_report_says(tmp_path):
    elements = read(whole(), tmp_path)
    assert elements.words("title")[0] == elements.words("h1")[0] == "All of it"
    assert elements.words("h2") == ["Scores", "Trade", "Best", "Grid", "Notes", "Details"]
    assert elements.words("a") == elements.words("h2")
    ids = {attributes.get("id") for _, attributes in elements.elements}
    assert all(link["href"][1:] in ids for link in elements.of("a"))
    cells = elements.words("td")
    assert {"0.304", "0.774", "3,000", "158", "as given"} <= set(cells)
    assert "[0.300, 0.310]" in elements.words("small")
    assert elements.words("p") == ["First.", "Second."]
    assert elements.words("dd") == ["0.910", "1st of 100", "jedi-tiny", "2026-11-24"]
    assert [x["alt"] for x in elements.of("img")] == ["reference, teddy", "teddy, a toy in the snow", "ours, wide"]


def test_every_image_has_an_alternative_text(tmp_path):
    elements = read(Report("T", [], [Gallery("Plain", [[GalleryImage(noise()), GalleryImage(noise())]])]), tmp_path)
    assert [x["alt"] for x in elements.of("img")] == ["Plain: image 1", "Plain: image 2"]


def hostile_report() -> Report:
    """Every word of it tries to leave its place."""
    x = HOSTILE
    table = Table(x, [x], [(x, {x: x})], note=x, groups=[(x, 1)])
    curve = LineChart(x, x, x, [Series(x, [Point(0, 0, x), Point(1, 1)])], note=x)
    gallery = Gallery(x, [[GalleryImage(noise(), x, {x: x}, reference=True)]], labels=[x], note=x)
    grid = Gallery(x, [[GalleryImage(noise(), x)]], columns=[x])
    return Report(x, [x], [table, curve, gallery, grid, Text(x, x)], {x: x})


def test_hostile_words_are_only_words(tmp_path):
    elements = read(hostile_report(), tmp_path)
    tags = [tag for tag, _ in elements.elements]
    assert "script" not in tags
    assert tags.count("img") == 2 and tags.count("style") == tags.count("title") - 4 == 1  # 4 marks' tooltips
    assert not [name for _, attributes in elements.elements for name in attributes if name.startswith("on")]
    for tag in ("h1", "h2", "h3", "th", "td", "li", "p", "dt", "dd", "figcaption", "text", "title", "div"):
        assert HOSTILE in elements.words(tag), tag
    assert HOSTILE in elements.of("img")[0]["alt"]


def test_letters_that_no_file_can_hold_are_marked(tmp_path):
    caption = "a\x00b\ud800c\x1b[0m\u202ed"
    elements = read(Report("T", [], [Gallery("G", [[GalleryImage(noise(), caption)]])]), tmp_path)
    assert "a\ufffdb\ufffdc\ufffd[0m\ufffdd" in elements.words("figcaption")
    assert json.loads((tmp_path / "report.json").read_text())["sections"][0]["rows"][0][0]["caption"] == caption


def test_small_images_are_exact_and_enlarged_by_a_whole_number(tmp_path):
    image = noise(64, 48)
    (shown,) = read(Report("T", [], [Gallery("G", [[GalleryImage(image)]])]), tmp_path).of("img")
    assert np.array_equal(np.asarray(image_of(shown)), np.asarray(image))
    assert (shown["width"], shown["height"], shown["class"]) == ("128", "96", "small")


def test_large_images_are_shrunk_and_keep_their_shape(tmp_path):
    image = Image.new("RGB", (1000, 500), "orange")
    (shown,) = read(Report("T", [], [Gallery("G", [[GalleryImage(image)]])]), tmp_path).of("img")
    assert image_of(shown).size == (384, 192)
    assert (shown["width"], shown["height"]) == ("160", "80") and "class" not in shown
    assert np.abs(np.asarray(image_of(shown), int) - (255, 165, 0)).max() < 8
    assert image.size == (1000, 500)  # the caller's image is left as it was


def test_photographs_beside_small_images_are_as_large_as_those(tmp_path):
    row = [GalleryImage(noise(64, 64)), GalleryImage(noise(500, 250))]
    shown = read(Report("T", [], [Gallery("G", [row])]), tmp_path).of("img")
    assert [(x["width"], x["height"]) for x in shown] == [("128", "128"), ("128", "64")]


def test_transparency_lies_over_the_neutral_grey(tmp_path):
    (shown,) = read(
        Report("T", [], [Gallery("G", [[GalleryImage(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))]])]), tmp_path
    ).of("img")
    assert image_of(shown).getpixel((3, 3)) == (128, 128, 128)


# ---- whiskers and bold figures


def test_the_whiskers_of_a_column_share_a_scale():
    rows = page._table(scores())["rows"]
    clip = [row["cells"][0]["whisker"] for row in rows]
    place = lambda x: pytest.approx(2 + 96 * (x - 0.21) / (0.31 - 0.21), abs=0.01)
    assert clip[0] == {"value": place(0.304), "low": place(0.3), "high": place(0.31)}
    assert clip[1] == {"value": place(0.301), "low": place(0.29), "high": place(0.31)}
    assert clip[2] is None  # not measured
    assert clip[3] == {"value": place(0.21)}  # no interval: a mark alone
    assert [row["cells"][2]["whisker"] for row in rows] == [None] * 4  # a column without intervals


def test_a_column_of_equal_figures_has_its_marks_in_the_middle():
    rows = [("a", {"x": Cell(1.0, 1.0, 1.0)}), ("b", {"x": Cell(1.0, 1.0, 1.0)})]
    view = page._table(Table("T", ["x"], rows))
    assert {tuple(row["cells"][0]["whisker"].values()) for row in view["rows"]} == {(50, 50, 50)}


def test_the_best_of_the_first_group_is_bold():
    rows = page._table(scores())["rows"]
    assert [[cell["best"] for cell in row["cells"]] for row in rows] == [
        [True, True, False],  # CLIP-T: higher is better, DINO (as this table says): lower
        [False, False, False],
        [False, False, False],
        [False, False, False],
    ]


def test_one_figure_alone_is_not_best():
    table = Table("T", ["x"], [("a", {"x": 1.0}), ("b", {})], better={"x": "higher"})
    assert not any(row["cells"][0]["best"] for row in page._table(table)["rows"])


# ---- charts


def drawn(chart: LineChart | Histogram) -> list[Figure]:
    """The chart in both sizes, laid out."""
    with charts.style():
        figures = [charts.figure(chart, size) for size in ("wide", "narrow")]
        for figure in figures:
            figure.draw_without_rendering()
    return figures


def ticks(axis: Axis) -> dict[float, str]:
    """The ticks that are seen."""
    least, most = axis.get_view_interval()
    places = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    return {place: label.get_text().replace("\N{MINUS SIGN}", "-") for place, label in places if least <= place <= most}


def marks(figure: Figure) -> dict[str, tuple[float, float]]:
    """What is shown over a point or bar -> where its middle is, in pixels."""
    found = {x.get_gid(): x for x in figure.axes[0].get_children() if x.get_gid()}
    middles = {gid: np.mean(x.get_window_extent().get_points(), axis=0) for gid, x in found.items()}
    return {unescape(gid.removeprefix("title:")): tuple(middle) for gid, middle in middles.items()}


@pytest.mark.parametrize(
    ("least", "most"), [(0.0, 1.0), (0.25, 0.31), (-30.0, 30.0), (999.0, 1001.5), (0.0, 3e-7), (0.0, 5e6)]
)
def test_ticks_are_round_figures(least, most):
    points = [Point(least, least), Point(most, most)]
    for figure in drawn(LineChart("C", "x", "y", [Series("s", points)])):
        for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
            found = ticks(axis)
            assert 2 <= len(found) <= 8 and len(set(found.values())) == len(found)
            assert all(math.isclose(value, float(text), abs_tol=1e-9) for value, text in found.items())
            step = sorted(found)[1] - sorted(found)[0]
            assert round(step / 10 ** math.floor(math.log10(step * 1.001)), 6) in (1, 2, 5)


def test_points_stand_where_their_figures_say():
    for figure in drawn(trade()):
        found, frame = marks(figure), figure.axes[0].get_window_extent()
        first, second, oracle = (
            found["3 references, g = 1: 0.28, 0.8"],
            found["3 references, g = 5: 0.3, 0.7"],
            found["oracle: 0.31, 0.9"],
        )
        assert frame.x0 < first[0] < second[0] < oracle[0] < frame.x1
        assert frame.y1 > oracle[1] > first[1] > second[1] > frame.y0
        assert second[0] - first[0] == pytest.approx((oracle[0] - first[0]) * 2 / 3, abs=0.1)
        heights = {
            text: figure.axes[0].transData.transform((0, y))[1] for y, text in ticks(figure.axes[0].yaxis).items()
        }
        assert first[1] == pytest.approx(heights["0.8" if "0.8" in heights else "0.80"], abs=0.02)
        ends = [list(line.get_ydata()) for line in figure.axes[0].lines if line.get_marker() == "_"]
        assert ends == [[0.79, 0.81], [0.68, 0.72]]  # the oracle has no interval
        assert "oracle" in [text.get_text() for text in figure.axes[0].texts]


def test_a_single_point_and_equal_points_can_be_drawn():
    for value in (0.0, 0.3, -5.0, 1e9):
        chart = LineChart("C", "x", "y", [Series("a", [Point(value, value)] * 2), Series("b", [Point(value, value)])])
        (figure, _) = drawn(chart)
        frame = figure.axes[0].get_window_extent()
        assert marks(figure) and all(frame.contains(*place) for place in marks(figure).values())
        assert ticks(figure.axes[0].xaxis) and ticks(figure.axes[0].yaxis)


def test_labels_in_a_chart_cover_nothing():
    random = np.random.default_rng(0)
    points = [Point(*xy, label=f"g = {i}") for i, xy in enumerate(random.random((30, 2)).tolist())]
    chart = LineChart("C", "x", "y", [Series(f"s{i}", points[i::5]) for i in range(5)])
    for figure in drawn(chart):
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        assert len(boxes) > 5
        for i, box in enumerate(boxes):
            assert figure.axes[0].get_window_extent().x0 <= box.x0 and box.x1 <= figure.bbox.x1
            assert not box.count_overlaps(boxes[:i])
            assert not any(box.contains(*place) for place in marks(figure).values())


def test_the_same_chart_has_the_same_bytes_whatever_matplotlib_is_told():
    whole = charts.draw(trade())
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": False}):
        assert charts.draw(trade()) == whole
    assert set(whole) == {"wide", "narrow"} and not re.search(
        r"#[0-9a-f]{6}|url\(|<style|https?:", "".join(whole.values())
    )
    assert "var(--s0)" in whole["wide"] and "var(--ink)" in whole["wide"]


def test_the_values_of_a_chart_are_listed_under_it(tmp_path):
    elements = read(Report("T", [], [trade()]), tmp_path)
    assert {"g = 1", "0.28", "0.8"} <= set(elements.words("td"))
    assert "[0.79, 0.81]" in elements.words("small")


@pytest.mark.parametrize("name", ["font-family: x", 'a transform="rotate(-0', "<g id=", "#010200 -->", "$x^2$ \x00"])
def test_names_that_look_like_a_drawing_are_only_words(tmp_path, name):
    chart = LineChart(name, name, name, [Series(name, [Point(0, 0, name)])])
    elements = read(Report("T", [], [chart, lengths(counts={name: [0, 3, 400]})]), tmp_path)
    assert elements.words("text").count(printable(name)) == 2 * 3  # both axes and the point, wide and narrow
    assert f"{printable(name)}, 0.2 to 0.3: 400" in elements.words("title")


# ---- histograms


def test_bars_stand_on_one_another_and_show_what_is_rare():
    for figure in drawn(lengths()):
        axes = figure.axes[0]
        bars = {bar.get_gid().removeprefix("title:"): bar.get_window_extent() for bar in axes.patches}
        assert set(bars) == {
            "kept, 0.1 to 0.2: 3",
            "kept, 0.2 to 0.3: 400",
            "dropped, 0 to 0.1: 5",
            "dropped, 0.1 to 0.2: 1",
        }
        below, above, high = bars["kept, 0.1 to 0.2: 3"], bars["dropped, 0.1 to 0.2: 1"], bars["kept, 0.2 to 0.3: 400"]
        frame = axes.get_window_extent()
        assert above.x0 == below.x0 and above.y0 == pytest.approx(below.y1)
        assert below.y0 == pytest.approx(frame.y0) and above.height >= 1
        assert high.height / bars["dropped, 0 to 0.1: 5"].height == pytest.approx(80, rel=0.01)
        (line,), (label,) = axes.lines, axes.texts
        assert axes.transData.transform((line.get_xdata()[0], 0))[0] == pytest.approx(below.x0)
        assert label.get_text() == "min_mean 0.1" and label.get_window_extent().y0 > high.y1  # it covers no bar
        assert frame.x0 <= min(bar.x0 for bar in bars.values()) + 1e-6
        assert max(bar.x1 for bar in bars.values()) <= frame.x1 + 1e-6


def test_bins_of_whole_numbers_have_whole_ticks():
    for figure in drawn(Histogram("Words", "words", "captions", [3.5, 4.5, 5.5], {"train": [1, 2]})):
        assert list(ticks(figure.axes[0].xaxis).values()) == ["4", "5"]
        assert all(text.isdigit() for text in ticks(figure.axes[0].yaxis).values())


def test_a_histogram_of_nothing_can_be_drawn(tmp_path):
    elements = read(Report("R", [], [lengths(counts={"kept": [0, 0, 0]})]), tmp_path)
    assert elements.words("title") == ["R"] and "score" in elements.words("text")


def test_a_histogram_on_the_page_and_in_json(tmp_path):
    elements = read(Report("R", ["s"], [lengths()], links={"Times": "../logs/times.html"}), tmp_path)
    assert "min_mean 0.1" in elements.words("text")
    rows = [text for tag, text in elements.texts if tag in ("th", "td") and text.strip()]
    assert rows == ["score", "kept", "dropped", "0 to 0.1", "0", "5", "0.1 to 0.2", "3", "1", "0.2 to 0.3", "400", "0"]
    assert [x["href"] for x in elements.of("a")] == ["../logs/times.html"]
    (section,) = json.loads((tmp_path / "report.json").read_text())["sections"]
    assert section["kind"] == "histogram" and section["counts"]["kept"] == [0, 3, 400]
    assert section["lines"] == {"min_mean 0.1": 0.1} and section["edges"][-1] == 0.3


# ---- files


def test_a_second_report_replaces_the_first(tmp_path):
    write_report(whole(), tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "mine.txt").write_text("kept")
    path = write_report(replace(whole(), title="Second"), tmp_path / "a" / "b")
    assert path == tmp_path / "a" / "b" / "report.html"
    assert "<h1>Second</h1>" in path.read_text(encoding="utf-8")
    assert sorted(x.name for x in path.parent.iterdir()) == ["mine.txt", "report.html", "report.json"]


def test_a_file_of_other_origin_is_not_overwritten(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(InputError, match=r"report\.html"):
        write_report(whole(), tmp_path)
    assert (tmp_path / "report.html").read_text() == "mine"


def test_a_broken_image_leaves_nothing(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    with pytest.raises(ImageError, match=r"broken\.png"):
        write_report(whole(tmp_path / "broken.png"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["", "a/b", "../x", "."])
def test_a_name_is_a_file_name(tmp_path, name):
    with pytest.raises(ReportError, match="file name"):
        write_report(whole(), tmp_path, name)


# ---- what makes no sense


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Cell(math.nan), "None"),
        (lambda: Cell(True), "number"),
        (lambda: Cell(np.float32(0.3)), "float32"),
        (lambda: Cell(0.3, 0.2), "both ends"),
        (lambda: Cell(0.3, math.inf, math.inf), "inf"),
        (lambda: Cell(0.3, 0.4, 0.2), "outside"),
        (lambda: Cell(30.0, 0.25, 0.35), "outside"),
        (lambda: Cell("good", 0.1, 0.2), "good"),
        (lambda: Cell(None, 0.1, 0.2), "None"),
        (lambda: Point(math.inf, 0), "inf"),
        (lambda: Point(0, None), "None"),
        (lambda: Point(0, 0.5, low=0.6, high=0.7), "outside"),
    ],
)
def test_figures_that_make_no_sense_are_refused(make, says):
    with pytest.raises(ReportError, match=says):
        make()


def test_rounding_is_no_reason_to_refuse_an_interval():
    mean = sum([0.1] * 3) / 3
    assert mean != 0.1
    assert Cell(mean, 0.1, 0.1).value == mean
    assert Table("T", ["x"], [("a", {"x": 0.5})]).cells() == [("a", {"x": Cell(0.5)})]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: replace(scores(), columns=["CLIP-T", "n"], better={}),
            r"table 'Scores', row '1 reference': no column 'DINO'",
        ),
        (lambda: replace(scores(), columns=["n", "n"], rows=[("a", {})], better={}), "'n' is there twice"),
        (lambda: replace(scores(), columns=[]), "0 columns"),
        (lambda: replace(scores(), rows=[]), "0 rows"),
        (lambda: replace(scores(), rows=[("", {})]), "label"),
        (lambda: replace(scores(), rows=[("a", {"n": math.nan})], groups=()), r"row 'a', column 'n'.*None"),
        (lambda: replace(scores(), groups=[("a", 2), ("b", 1)]), r"\[2, 1\] rows, but there are 4"),
        (lambda: replace(scores(), groups=[("a", 5), ("b", -1)]), "'b' cannot have -1 rows"),
        (lambda: replace(scores(), better={"CLIP": "higher"}), "better names 'CLIP'"),
        (lambda: replace(scores(), better={"n": "up"}), "'up'"),
        (lambda: replace(scores(), formats={"n": "q"}), "row '1 reference', column 'n'"),
        (lambda: replace(scores(), title=" "), "title"),
        (lambda: replace(trade(), series=[]), "no series"),
        (lambda: replace(trade(), series=[Series("a", [])]), "'a' has no points"),
        (lambda: replace(trade(), series=[Series("a", [Point(0, 0)])] * 2), "two series are called 'a'"),
        (lambda: replace(trade(), x_label=""), "x_label"),
        (lambda: lengths(edges=[0.0, 0.2, 0.1, 0.3]), "each larger than the last"),
        (lambda: lengths(counts={}), "counts nothing"),
        (lambda: lengths(counts={"kept": [1, 2]}), "2 counts of 'kept' for 3 bins"),
        (lambda: lengths(counts={"kept": [1, 2.5, 0]}), "is 2.5; expected a whole number"),
        (lambda: lengths(counts={"kept": [1, -1, 0]}), "is -1; expected a whole number"),
        (lambda: replace(lengths(), lines={"far": 0.4}), r"'far' at 0.4 is outside of \[0.0, 0.3\]"),
        (lambda: Gallery("G", []), "no images"),
        (lambda: Gallery("G", [[None]]), "no images"),
        (lambda: Gallery("G", [[GalleryImage(noise())]], labels=["a", "b"]), "2 labels for 1 rows"),
        (lambda: Gallery("G", [[GalleryImage(noise())]], columns=["a", "b"]), "1 places"),
        (lambda: Gallery("G", [[noise()]]), "expected a GalleryImage, found Image"),
        (lambda: Gallery("G", [[GalleryImage(np.zeros((4, 4, 3)))]]), "ndarray"),
        (lambda: Gallery("G", [[GalleryImage(noise(), scores={"a": math.nan})]]), "'a'"),
        (lambda: Text("T", "\n"), "body"),
        (lambda: "a string", "sections.0. must be"),
    ],
)
def test_sections_that_make_no_sense_are_refused(make, says):
    with pytest.raises(ReportError, match=says):
        Report("T", [], [make()])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"title": ""}, "title"),
        ({"summary": "a sentence"}, "list"),
        ({"summary": [""]}, r"summary\[0\]"),
        ({"sections": []}, "no sections"),
        ({"details": {"model": 3}}, "'model'"),
        ({"links": {"": "a.html"}}, "a link's text"),
        ({"links": {"page": "https://example.org"}}, "'page' leads to 'https://example.org'; expected"),
        ({"links": {"page": "//example.org"}}, "relative"),
    ],
)
def test_reports_that_make_no_sense_are_refused(change, says):
    with pytest.raises(ReportError, match=says):
        replace(whole(), **change)
