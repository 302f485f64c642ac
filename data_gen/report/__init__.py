"""What a data set holds, read back from its shards and manifests: a page, a data card, statistics, a contact sheet.

Reading order: `stored` (what can be read), `survey` (drops and scores, from the units' manifests), `counts` (one
pass over the sets), `images`, `page`, `card`; `times` differ from run to run and so stand apart.
"""

from __future__ import annotations

from pathlib import Path

from data_gen.config import DataConfig
from data_gen.plan import Plan
from data_gen.report.card import data_card
from data_gen.report.counts import statistics
from data_gen.report.gallery import contact_sheet
from data_gen.report.page import data_report
from data_gen.report.scores import thresholds
from data_gen.report.stored import Stored
from data_gen.report.survey import take_survey
from data_gen.report.times import throughput, times_report
from data_gen.shards import write_json
from jedi.io.files import atomic

CONTACT_SHEET = "report/contact_sheet.png"
FILES = ("statistics.json", "DATA_CARD.md", "report/report.html", CONTACT_SHEET)


def is_reported(config: DataConfig) -> bool:
    """Whether the report on all shards stands there whole."""
    return all((Path(config.out) / name).is_file() for name in FILES)


def forget(config: DataConfig) -> None:
    """The report is one on other shards: it no longer counts as written."""
    (Path(config.out) / CONTACT_SHEET).unlink(missing_ok=True)


def write_report(config: DataConfig, plan: Plan) -> None:
    """Writes DIR/statistics.json, DATA_CARD.md, report/report.html and, last, report/contact_sheet.png, each whole or
    not at all, from the shards that are packed or else from the units that are done; and, with the times that the work
    took, DIR/logs/throughput.html and .json."""
    from jedi.report.page import render  # needs jinja2

    out, stored = Path(config.out), Stored(plan)
    forget(config)
    for folder in ("report", "logs"):
        (out / folder).mkdir(exist_ok=True)
    times = throughput(plan)
    write_json(out / "logs" / "throughput.json", times)
    if (shown := times_report(times, config.source)) is not None:
        _write(out / "logs" / "throughput.html", render(shown))
    found = take_survey(stored, thresholds(config))
    counted = statistics(stored, found)
    write_json(out / "statistics.json", counted)
    _write(out / "DATA_CARD.md", data_card(config, stored, found, counted))
    _write(out / "report" / "report.html", render(data_report(config, stored, found, counted)))
    with atomic(out / CONTACT_SHEET) as temporary:
        contact_sheet(stored, config.contact_sheet_rows).save(temporary, "PNG")


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
