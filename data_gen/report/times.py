"""How long the work took: `logs/throughput.html` and `.json`, apart from all that must be the same in every run."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from typing import Any

from data_gen.plan import Plan
from jedi.report.document import Report, Table


def throughput(plan: Plan) -> dict[str, Any]:
    """Seconds by step over the units that have a log, added up over processes; images of the sets that arrived."""
    seconds: Counter[str] = Counter()
    units, sets, images, slowest = 0, 0, 0, ("", 0.0)
    for unit in plan.units:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a log is no part of the work
            log = json.loads((plan.out / "logs" / f"{unit.name}.json").read_text(encoding="utf-8"))
            taken = {name: float(value) for name, value in log["seconds"].items()}
            sets, images, units = sets + log["items"], images + log["images"], units + 1
            seconds.update(taken)
            slowest = max(slowest, (unit.name, sum(taken.values())), key=lambda pair: pair[1])
    return {
        "units": units,
        "units_planned": len(plan.units),
        "sets_begun": sets,
        "images": images,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "slowest_unit": {"name": slowest[0], "seconds": round(slowest[1], 3)},
    }


def times_report(result: dict[str, Any], source: str) -> Report | None:
    """The same as a page; None where no unit has a log."""
    seconds, images = result["seconds"], result["images"]
    total = sum(seconds.values())
    if not total:
        return None
    rows = [
        (name, {"seconds": value, "share": value / total, "images/s": images / value if value else None})
        for name, value in [*seconds.items(), ("all steps", total)]
    ]
    slowest = result["slowest_unit"]
    table = Table(
        "Throughput by stage",
        ["seconds", "share", "images/s"],
        rows,
        note="Seconds of a process at work, added up over all units: w processes together took about 1/w of them. "
        "Images are those of the sets that arrived. The first unit of a process also loads the models. "
        f"The slowest unit was {slowest['name']}: {slowest['seconds']:.1f} s.",
        formats={"seconds": ",.1f", "share": ".1%", "images/s": ",.1f"},
        groups=[("Steps, in their order", len(seconds)), ("Together", 1)],
    )
    done = f"{result['units']:,} of {result['units_planned']:,} units, {result['sets_begun']:,} sets begun"
    return Report(
        f"Throughput of the data set from the source {source}",
        [f"{done}, {images:,} images: {images / total:,.1f} a second and process."],
        [table],
        links={"The data set's report": "../report/report.html"},
    )
