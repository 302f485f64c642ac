"""The report of a data set in a real browser: at desk and phone width, by day and by night."""

import html
import json
import re

import numpy as np
import pytest
from PIL import Image

from data_gen import run
from tests.data_gen import scored
from tests.jedi.report.test_report_browser import HEIGHT, MEASURE, WIDTHS, browse, pytestmark  # noqa: F401


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict:
    """The pages of a data set with histograms, by name."""
    forget = scored.register()
    out = tmp_path_factory.mktemp("report_browser") / "made"
    run.run(scored.scored_config(out))
    forget()
    return {"report": out / "report" / "report.html", "throughput": out / "logs" / "throughput.html"}


@pytest.fixture(scope="module")
def measured(pages, tmp_path_factory) -> dict:
    """What the browser makes of each page at each of `WIDTHS`, under "page place"."""
    folder, frames = tmp_path_factory.mktemp("measured"), []
    for name, page in pages.items():
        source = html.escape(page.read_text(encoding="utf-8"))
        for place, width in WIDTHS.items():
            frames.append(f'<iframe id="{name} {place}" width={width} height={HEIGHT} srcdoc="{source}"></iframe>')
    outer = folder / "outer.html"
    outer.write_text(f"<!doctype html><meta charset=utf-8><script>{MEASURE}</script>{''.join(frames)}", "utf-8")
    found = re.search(r'<pre id="found">(.*?)</pre>', browse(folder, outer, "--dump-dom"), re.S)
    assert found, "the browser did not come to the end of the page"
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("place", WIDTHS)
def test_no_page_is_wider_than_the_window(measured, place):
    for name in ("report", "throughput"):
        page = measured[f"{name} {place}"]
        assert page["view"] == WIDTHS[place] and page["wide"] <= WIDTHS[place] and page["scripts"] == 0
    assert measured["hit"] == 0


@pytest.mark.parametrize("place", WIDTHS)
def test_images_and_histograms_are_shown(measured, place):
    page = measured[f"report {place}"]
    complete, natural, _ = zip(*page["images"], strict=True)
    assert len(complete) > 40 and all(complete) and set(natural) == {scored.SIDE}
    shape = {"desk": "wide", "phone": "narrow"}[place]
    assert page["plots"] == [shape] * 4  # words in a caption, and three scores
    assert page["words"] and min(page["words"]) > 10
    assert page["headings"][0] == "Data set from the source shapes"


def test_the_histograms_are_painted_by_day_and_by_night(pages, tmp_path):
    """What is painted below the images of sets: two colours of bars on a light and on a dark page."""
    colours = {"day": ((11, 92, 173), (196, 80, 27)), "night": ((125, 184, 245), (245, 154, 102))}
    for name, bars in colours.items():
        file, night = tmp_path / f"{name}.png", ["--blink-settings=preferredColorScheme=0"] * (name == "night")
        browse(tmp_path, pages["report"], f"--screenshot={file}", "--window-size=1200,9000", *night)
        image = np.asarray(Image.open(file).convert("RGB")).astype(int)
        assert (np.median(image) > 240) == (name == "day")
        for colour in bars:
            assert (np.abs(image - colour).max(-1) <= 2).sum() > 5000, (name, colour)
