"""A data set with scores, drops and near-duplicates, made in a second: shapes, a filter of ours and `sharpness`."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_gen.config import DataConfig, FinishSettings, schema
from data_gen.samples import Dropped
from data_gen.sources import SOURCES, Source
from data_gen.stages.filter import FilterSets
from data_gen.stages.filters import FILTERS, Filter, Verdict
from data_gen.stages.filters.likeness import DuplicatesSettings, IdentitySettings
from data_gen.stages.filters.quality import SharpnessSettings
from tests.data_gen.made_sets import SIDE, make_set

HOSTILE = "a cup | <script>top.hit=1</script> {{ 7*7 }}"
KINDS = (("fox", "animal"), ("cup", "thing"), ("apple", "food"), ("heron", "animal"), ("pot", "pots | pans"))
COPY, ORIGINAL = "train-00000007", "train-00000003"
RED = 0.4  # the threshold of `redness`


class Shapes(Source):
    """Set 5 is dropped by the source, set 7 shows the images of set 3; every third set has three images."""

    gives, uses_model = frozenset({"images", "masks"}), False

    def sizes(self):
        return {"train": self.context.sets, "heldout": self.context.heldout_sets}

    def inputs(self):
        return {"shapes": "0" * 64}

    def make(self, items):
        for item in items:
            if item.index == 5 and item.split == "train":
                yield Dropped(item.key, "dull")
                continue
            number = 3 if item.key == COPY else item.index + 1000 * (item.split == "heldout")
            name, kind = KINDS[item.index % len(KINDS)]
            colour = (10 + 37 * number % 240, 40, 120)
            one = replace(make_set(number, name, kind, colour, n=3 if number % 3 == 0 else 4), key=item.key)
            one = replace(one, subject={**one.subject, "id": f"{name}-{item.key}"})
            attributes = [{**x, "file": f"{item.key}/{i}.png"} for i, x in enumerate(one.attributes)]
            captions = [HOSTILE, *one.captions[1:]] if item.key == ORIGINAL else one.captions
            record = {"model": "the/painter"} if item.index % 2 else {}
            yield replace(one, attributes=attributes, captions=captions, provenance=record)


@dataclass
class RednessSettings:
    min_share: float | None = None


class Redness(Filter):
    """Score: how red the subject is over the set, in [0, 1]."""

    Settings, needs, uses_model = RednessSettings, frozenset({"masks"}), False
    thresholds = (("redness.mean", "min_share"),)

    @property
    def on(self):
        return self.settings.min_share is not None

    def judge(self, images):
        return [self._judge(zip(one.images, one.masks, strict=True)) for one in images.sets]

    def _judge(self, pairs):
        red = float(np.mean([np.asarray(image)[np.asarray(mask) > 0, 0].mean() for image, mask in pairs]) / 255)
        least = self.settings.min_share
        return Verdict({"mean": red}, f"redness below {least:g}" if red < least else None)


@dataclass
class RedsSettings:
    max_share: float | None = None


class Reds(Filter):
    """Scores: how red each image is, in [0, 1]."""

    Settings, needs, uses_model = RedsSettings, frozenset({"masks"}), False
    thresholds = (("reds", "max_share"),)

    @property
    def on(self):
        return self.settings.max_share is not None

    def judge(self, images):
        reds = [[float(np.asarray(image)[..., 0].mean() / 255) for image in one.images] for one in images.sets]
        return [
            Verdict(x, images={i: "too red" for i, red in enumerate(x) if red > self.settings.max_share}) for x in reds
        ]


PARTS = ((SOURCES, "shapes", Shapes), (FILTERS, "redness", Redness), (FILTERS, "reds", Reds))


def register():
    """Adds the source and the filters; returns what takes them away again."""
    for registry, name, part in PARTS:
        registry.register(name)(part)
    return lambda: [registry._parts.pop(name) for registry, name, _ in PARTS]


def scored_config(out: Path | str, **changes) -> DataConfig:
    judged = FilterSets.section()(
        identity=IdentitySettings(min_mean=None),
        duplicates=DuplicatesSettings(max_copy=None),
        sharpness=SharpnessSettings(min_score=0.0),
        redness=RednessSettings(RED),
        reds=RedsSettings(0.3),
    )
    settings = {
        "source": "shapes", "stages": ["filter"], "filter": judged, "resolution": SIDE, "sets": 40, "heldout_sets": 10,
        "sets_per_unit": 8, "sets_per_shard": 16, "workers": 1, "contact_sheet_rows": 6,
        "finish": FinishSettings(duplicate_distance=2),
    }  # fmt: skip
    return schema()(out=str(out), **{**settings, **changes})
