"""What a data set holds, read back from its shards and manifests: a page, a data card, statistics, a contact sheet.

Reading order: `collect` (what can be read, scores, counts), `gallery` (images), `page` (what is said of them).
"""

from __future__ import annotations

from pathlib import Path

from data_gen.config import DataConfig
from data_gen.plan import Plan
from data_gen.report.collect import Stored, statistics, take_survey, thresholds
from data_gen.report.gallery import choose_sets, contact_sheet
from data_gen.report.page import data_report, throughput, throughput_report
from jedi.io.files import atomic, write_json, write_text
from jedi.report.text import markdown

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
    from jedi.report.page import render  # needs jinja2 and matplotlib

    out, stored = Path(config.out), Stored(plan)
    forget(config)
    for folder in ("report", "logs"):
        (out / folder).mkdir(exist_ok=True)
    times = throughput(plan)
    write_json(out / "logs" / "throughput.json", times)
    if (report := throughput_report(times, config.source)) is not None:
        write_text(out / "logs" / "throughput.html", render(report))
    survey = take_survey(stored, thresholds(config))
    counted = statistics(stored, survey)
    write_json(out / "statistics.json", counted)
    shown = choose_sets(stored, config.contact_sheet_rows)
    report = data_report(config, stored, survey, counted, shown)
    write_text(out / "DATA_CARD.md", markdown(report))
    write_text(out / "report" / "report.html", render(report))
    with atomic(out / CONTACT_SHEET) as temporary:
        contact_sheet(shown).save(temporary, "PNG")
