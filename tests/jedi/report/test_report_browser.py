"""The report in a real browser: what it lays out at desk and phone width, what it paints, by day and by night.

The page has no script. A second page frames it at two widths, measures it from outside and writes what it
found into itself, where ``--dump-dom`` shows it.
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jedi.report.document import Report, Table
from jedi.report.page import write_report
from tests.jedi.report.test_report import HOSTILE, hostile_report, whole

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None,
        reason=f"none of {', '.join(BROWSERS)} is installed; on Debian: apt-get install chromium",
    ),
]
WIDTHS = {"desk": 1200, "phone": 390}
HEIGHT = 1600
MEASURE = """
onload = () => {
  const found = {hit: window.hit === undefined ? 0 : window.hit};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, view = frame.contentWindow;
    const all = (selector) => [...page.querySelectorAll(selector)];
    const seen = (x) => x.getClientRects().length > 0;
    const style = (x) => view.getComputedStyle(x);
    found[frame.id] = {
      wide: page.documentElement.scrollWidth,
      view: view.innerWidth,
      headings: all("h1, h2").map((x) => x.textContent),
      rows: all(".table tbody tr").map((x) => x.innerText.replace(/\\s+/g, " ").trim()),
      images: all("img").map((x) => [x.complete, x.naturalWidth, x.getBoundingClientRect().width]),
      rendering: all("img").map((x) => style(x).imageRendering),
      plots: all(".plot > svg").filter(seen).map((x) => x.getAttribute("class")),
      words: all(".plot > svg text").filter(seen).map((x) => x.getBoundingClientRect().height),
      marks: all(".plot .mark").filter(seen).length,
      boxes: all(".table .scroll").map((x) => [x.scrollWidth, x.clientWidth, style(x).overflowX]),
      scripts: page.scripts.length,
      captions: all("figcaption").map((x) => x.textContent),
    };
  }
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
};
"""


def browse(folder: Path, page: Path, *options: str) -> str:
    """Runs the browser on a page; its output. The profile is in ``folder``: nothing of the user's is touched."""
    command = [BROWSER, "--headless", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}"]
    command += ["--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-sync"]
    if os.geteuid() == 0:
        command.append("--no-sandbox")  # the sandbox refuses to work for root
    done = subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def wide() -> Report:
    """A table that fits no window."""
    columns = [f"column {i}" for i in range(30)]
    return Report("Wide", [], [Table("Wide", columns, [("model", dict.fromkeys(columns, 0.5))])])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def measured(folder) -> dict:
    """What the browser makes of each report at each of ``WIDTHS``, under "report place"; "hit": what acted."""
    frames = []
    for name, report in {"whole": whole(), "hostile": hostile_report(), "wide": wide()}.items():
        source = html.escape(write_report(report, folder, name).read_text(encoding="utf-8"))
        for place, width in WIDTHS.items():
            frames.append(f'<iframe id="{name} {place}" width={width} height={HEIGHT} srcdoc="{source}"></iframe>')
    outer = folder / "outer.html"
    outer.write_text(f"<!doctype html><meta charset=utf-8><script>{MEASURE}</script>{''.join(frames)}", "utf-8")
    found = re.search(r'<pre id="found">(.*?)</pre>', browse(folder, outer, "--dump-dom"), re.S)
    assert found, "the browser did not come to the end of the page"
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def found(measured) -> dict:
    """The whole report, by place."""
    return {place: measured[f"whole {place}"] for place in WIDTHS}


def screenshot(folder: Path, name: str, *options: str) -> np.ndarray:
    """The upper part of the whole report as ``[H W 3]`` in 0..255; the image stays in ``folder``."""
    page, file = write_report(whole(), folder), folder / f"{name}.png"
    browse(folder, page, f"--screenshot={file}", f"--window-size={WIDTHS['desk']},{HEIGHT}", *options)
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


@pytest.mark.parametrize("place", WIDTHS)
def test_what_the_browser_reads(found, place):
    page = found[place]
    assert page["headings"] == ["All of it", "Scores", "Trade", "Best", "Grid", "Notes", "Details"]
    assert page["rows"][0] == "This model"
    assert page["rows"][1] == "1 reference 0.304 [0.300, 0.310] 0.619 [0.600, 0.640] 3,000"
    assert page["rows"][5] == "copy 0.210 as given \N{EN DASH}"
    assert page["scripts"] == 0


@pytest.mark.parametrize("place", WIDTHS)
def test_the_page_is_never_wider_than_the_window(found, place):
    assert found[place]["view"] == WIDTHS[place]
    assert found[place]["wide"] <= WIDTHS[place]


@pytest.mark.parametrize("place", WIDTHS)
def test_images_are_shown_and_small_ones_pixel_by_pixel(found, place):
    complete, natural, shown = zip(*found[place]["images"], strict=True)
    assert all(complete)
    assert natural == (64, 64, 384)
    assert shown == (128, 128, 160)
    assert found[place]["rendering"] == ["pixelated", "pixelated", "auto"]


def test_each_width_has_its_drawing_with_words_that_can_be_read(found):
    assert [found[place]["plots"] for place in WIDTHS] == [["wide"], ["narrow"]]
    for place in WIDTHS:
        assert found[place]["words"] and min(found[place]["words"]) > 10
        assert found[place]["marks"] == 3 + 2  # points, and the legend


def test_a_wide_table_scrolls_in_its_own_box(measured):
    for place, width in WIDTHS.items():
        page = measured[f"wide {place}"]
        ((content, box, overflow),) = page["boxes"]
        assert content > box and box <= width and overflow == "auto"
        assert page["wide"] <= width


def test_hostile_captions_do_nothing(measured):
    assert measured["hit"] == 0
    for place in WIDTHS:
        page = measured[f"hostile {place}"]
        assert page["scripts"] == 0
        assert len(page["images"]) == 2
        assert any(HOSTILE in text for text in page["captions"])


def test_the_page_is_painted_by_day_and_by_night(folder):
    day = screenshot(folder, "day")
    night = screenshot(folder, "night", "--blink-settings=preferredColorScheme=0")
    assert day.shape == night.shape == (HEIGHT, WIDTHS["desk"], 3)
    for image in (day, night):
        colours = np.unique(image @ (1 << 16, 1 << 8, 1))
        assert len(colours) > 1000  # the noise of the images; a page without them has a few hundred
        drawn = (np.ptp(image, axis=1) > 60).any(axis=1)  # lines with something on them
        assert 0.3 < drawn.mean() < 1
        assert drawn.reshape(8, -1).any(axis=1)[:6].all()  # from top to bottom
    assert np.median(day) > 240 and np.median(night) < 40
