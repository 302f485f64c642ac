"""What does the data engine cost over calling the pipeline, and how fast is each stage?

    python -m benchmarks.data_gen overhead
    python -m benchmarks.data_gen stages --photos ../shared/dreambooth

`overhead`: the source `collage` in the whole engine (records, PNGs, tars, manifests, logs, locks, shards, report),
against the bare pipeline, which is loaded from the same folder, gets the same prompts and seeds in the same batches,
and whose images are thrown away. Prompts and plan are made before the clock starts. A collage is cut in quarters, as
if `split` had found four panels. Printed is also where the engine's own time goes. `--model` takes any text-to-image
folder or name; without it the pipeline has the size of models/jedi-tiny.

`stages`: images a second through each stage, one process, sets of four photos of 512 x 512 pixels. Networks are real
where a package ships one (EfficientNet-Lite0), else so small that they cost nothing: then the figure is what the
stage's own code allows, and a real network comes on top. `--segment KIND:SOURCE` adds a real segmenter.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageOps

from benchmarks import small_models
from benchmarks.split import read_photos
from benchmarks.timing import measure, report
from data_gen import run
from data_gen.config import DataConfig, load_config
from data_gen.hashes import difference_hash
from data_gen.models import load_pipeline
from data_gen.plan import Plan, make_parts
from data_gen.samples import Item, SubjectSet
from data_gen.shards import encode, write_shard
from data_gen.stages import STAGES, Stage
from jedi.io.devices import find_device
from jedi.rng import keyed_generator

PANELS, SIDE = 4, 512


@STAGES.register("quarters")
class Quarters(Stage):
    """Cuts every collage in four, whatever it shows: random weights make no collages."""

    needs, gives, uses_model = frozenset({"collage"}), frozenset({"images"}), False

    def process(self, sets: Sequence[SubjectSet]) -> list[SubjectSet]:
        return [self._cut(one) for one in sets]

    def _cut(self, one: SubjectSet) -> SubjectSet:
        width, height = (side // 2 for side in one.images[0].size)
        corners = [(x, y) for y in (0, height) for x in (0, width)]
        images = [one.images[0].crop((x, y, x + width, y + height)) for x, y in corners]
        captions = [one.provenance["panel_caption"]] * PANELS
        return replace(one, images=images, captions=captions, masks=[None] * PANELS, attributes=[{}] * PANELS)


@dataclass
class Overhead:
    """The two ways of making the same images. `parts`: of each run of the engine, seconds by what they went to;
    `cpu`: of each run of either way, seconds of the processor, which a busy machine hardly changes."""

    options: argparse.Namespace
    folder: Path
    parts: list[dict[str, float]] = field(default_factory=list)
    cpu: dict[str, list[float]] = field(default_factory=lambda: {"bare pipeline": [], "engine": []})

    def settings(self, out: Path) -> list[str]:
        options = self.options
        return [
            f"out={out}", "source=collage", "stages=[quarters]", f"sets={options.sets}", "heldout_sets=0",
            f"sets_per_unit={options.unit}", f"resolution={options.side // 2}", "workers=1", f"device={options.device}",
            "prompts.subjects=48", f"collage.model={options.model}", f"collage.num_inference_steps={options.steps}",
            f"collage.width={options.side}", f"collage.height={options.side}", f"collage.batch_size={options.batch}",
            f"dtype={options.dtype}",
        ]  # fmt: skip

    def prepared(self) -> Iterator[tuple[DataConfig, Plan]]:
        """Folders with prompts and a plan, and nothing else yet."""
        for number in range(self.options.repeats + 1):
            config = load_config(None, self.settings(self.folder / f"out-{number}"))
            yield config, run.prepare(config)

    def ways(self) -> dict[str, Callable[[], None]]:
        folders = list(self.prepared())
        fresh = iter(folders)
        return {
            "bare pipeline": lambda: self.counted("bare pipeline", self.bare, *folders[0]),
            "engine": lambda: self.counted("engine", self.engine, *next(fresh)),
        }

    def counted(self, name: str, way: Callable[[DataConfig, Plan], None], config: DataConfig, plan: Plan) -> None:
        start = time.process_time()
        way(config, plan)
        self.cpu[name].append(time.process_time() - start)

    def bare(self, config: DataConfig, plan: Plan) -> None:
        """What someone would write who only wants the images."""
        pipe = load_pipeline("model", config.collage.model, "text2image", config.context)
        source = make_parts(config).source
        for unit in plan.units:
            items = unit.items()
            for start in range(0, len(items), config.collage.batch_size):
                batch = items[start : start + config.collage.batch_size]
                with torch.inference_mode():
                    pipe(
                        prompt=[source.subject(item).collage for item in batch],
                        generator=[keyed_generator(config.seed, item.key, "collage") for item in batch],
                        **config.collage.arguments(),
                    )

    def engine(self, config: DataConfig, plan: Plan) -> None:
        """`data_gen run` without the process' start, the prompts and the plan."""
        start = time.perf_counter()
        run.make_units(config, plan, plan.units)
        made = time.perf_counter()
        run.finish(config, plan)
        end = time.perf_counter()
        logs = [json.loads((plan.out / "logs" / f"{unit.name}.json").read_text())["seconds"] for unit in plan.units]
        logged = {name: sum(log[name] for log in logs) for name in logs[0]}
        rest = made - start - sum(logged.values())
        self.parts.append({**logged, "writing units": rest, "shards and report": end - made})


def overhead(options: argparse.Namespace) -> None:
    """Prints what the engine costs over the bare pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        if not options.model:
            options.model = str(small_models.text_to_image(Path(folder) / "model"))
        work = Overhead(options, Path(folder))
        seconds = measure(work.ways(), options.repeats)
    size = f"{options.sets} collages of {options.side} x {options.side}, {options.steps} steps, {options.batch} at once"
    print(f"{size}, {options.device}")
    report(seconds, options.sets, "collages", "bare pipeline")
    cpu = {name: values[1:] for name, values in work.cpu.items()}  # the first is the warm-up's
    for clock, values in {"by the clock": seconds, "of the processor": cpu}.items():
        both = zip(values["engine"], values["bare pipeline"], strict=True)
        shares = sorted(own / bare - 1 for own, bare in both)
        print(f"overhead, seconds {clock}: {statistics.median(shares):.1%} ({shares[0]:.1%} to {shares[-1]:.1%})")
    bare = statistics.median(seconds["bare pipeline"])
    for name in [name for name in work.parts[0] if name != "source"]:
        part = statistics.median(parts[name] for parts in work.parts[1:])
        print(f"  {name:<18} {part / bare:6.2%}  {1000 * part / options.sets:7.2f} ms a collage")


def photo_sets(photos: str, count: int) -> list[SubjectSet]:
    """`count` sets of four photos of one subject each, squares; the mask is an ellipse in the middle."""
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).ellipse([SIDE // 5, SIDE // 5, SIDE - SIDE // 5, SIDE - SIDE // 5], fill=255)
    sets = []
    for number, (name, images) in enumerate(sorted(read_photos(photos).items())[:count]):
        squares = [ImageOps.fit(image, (SIDE, SIDE)) for image in (images * PANELS)[:PANELS]]
        sets.append(
            SubjectSet(
                key=Item("train", number).key,
                subject={"id": name, "name": f"dog {number}", "class": ("dog", "cat")[number % 2]},
                captions=["a dog on the beach"] * PANELS, images=squares, masks=[mask] * PANELS,
                attributes=[{"background": "beach"} for _ in range(PANELS)], licence="", provenance={},
            )
        )  # fmt: skip
    return sets


def collages(sets: Sequence[SubjectSet]) -> list[SubjectSet]:
    """The sets' photos as collages of 2 x 2 with white gutters."""
    made = []
    for one in sets:
        sheet = Image.new("RGB", (2 * SIDE + 8, 2 * SIDE + 8), "white")
        for i, image in enumerate(one.images):
            sheet.paste(image, (i % 2 * (SIDE + 8), i // 2 * (SIDE + 8)))
        made.append(replace(one, images=[sheet], masks=[None], attributes=[{}], provenance={"panel_caption": "a dog"}))
    return made


ALL_OFF = ["filter.identity.min_mean=null", "filter.sharpness.min_score=null", "filter.duplicates.max_copy=null"]


def stage_settings(folder: Path, segment: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """What is measured: by name the stage and its settings."""
    clip, inpaint = small_models.clip(folder / "clip"), small_models.inpainting(folder / "inpaint")
    head = small_models.aesthetic_head(folder / "head.safetensors")
    clipseg, blip = small_models.clipseg(folder / "clipseg"), small_models.captioner(folder / "captioner")
    people, nsfw = small_models.detector(folder / "detector"), small_models.safety_checker(folder / "checker")
    segmenters = {"border": "border", "clipseg, tiny": f"clipseg:{clipseg}", **{name: name for name in segment}}
    filters = {
        "identity, EfficientNet-Lite0": ["identity.encoder=efficientnet-lite0", "identity.min_mean=0.1"],
        "text, tiny CLIP": [f"text.encoder=clip:{clip}", "text.min_score=-1"],
        "aesthetic, tiny CLIP": [f"aesthetic.encoder=clip:{clip}", f"aesthetic.head={head}", "aesthetic.min_mean=-99"],
        "sharpness": ["sharpness.min_score=1"],
        "duplicates (copy)": ["duplicates.max_copy=0.99"],
        "people, tiny YOLOS": [f"people.model={people}", "people.max_score=1"],
        "nsfw, tiny checker": [f"nsfw.model={nsfw}", "nsfw.max_score=2"],
    }
    return {
        "split": ("split", []),
        **{
            f"segment ({name})": ("segment", [f"segment.model={spec}", "segment.share=[0,1]", "segment.replace=true"])
            for name, spec in segmenters.items()
        },
        **{
            f"filter ({name})": ("filter", [*ALL_OFF, *(f"filter.{setting}" for setting in settings)])
            for name, settings in filters.items()
        },
        "augment (composite, painted)": ("augment", ["augment.method=composite", "augment.backgrounds.painted=true"]),
        "augment (inpaint, tiny, at 64 px)": (
            "augment",
            [f"augment.inpaint.{x}" for x in (f"model={inpaint}", "num_inference_steps=1", "side=64")],
        ),
        "compose": ("compose", ["compose.share=1", "compose.backgrounds.painted=true"]),
        "caption (captioner, tiny BLIP)": ("caption", ["caption.method=captioner", f"caption.captioner=blip:{blip}"]),
        "resize": ("resize", ["resolution=256"]),
    }  # fmt: skip


def stages(options: argparse.Namespace) -> None:
    """Prints images a second through each stage."""
    given = photo_sets(options.photos, options.sets)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{len(given)} sets of {PANELS} photos of {SIDE} x {SIDE}, {options.device}")
        for name, (stage, settings) in stage_settings(folder, options.segment).items():
            if options.only and stage not in options.only:
                continue
            common = [f"out={folder}", f"resolution={SIDE}", f"device={options.device}", f"dtype={options.dtype}"]
            config = load_config(None, [*common, "source=collage", *settings])
            process = STAGES.get(stage)(config.section(stage), config.context).process
            sets = collages(given) if stage == "split" else given
            show(name, lambda process=process, sets=sets: process(sets), PANELS * len(given), options)
        show("encode (PNG, JSON)", lambda: [encode(one, "x", 0) for one in given], PANELS * len(given), options)
        records = [encode(one, "x", 0) for one in given]
        show("write (tar, sha256)", lambda: write_shard(folder / "x.tar", records, {}), PANELS * len(given), options)
        hashes = [image for one in given for image in one.images]
        show("hash for duplicates", lambda: [difference_hash(image) for image in hashes], len(hashes), options)
        emoji = make_parts(load_config(None, [f"out={folder}", "source=emoji", "extensions=[jedi_toy.emoji]"])).source
        items = [Item("train", i) for i in range(25 * options.sets)]
        show("source emoji (64 x 64)", lambda: list(emoji.make(items)), PANELS * len(items), options)


def show(name: str, work: Callable[[], Any], images: int, options: argparse.Namespace) -> None:
    """Prints one line of a table."""
    rates = sorted(images / x for x in measure({name: work}, options.repeats, clock=options.clock)[name])
    middle = statistics.median(rates)
    rates = f"{middle:9.1f} images/s ({rates[0]:.1f} to {rates[-1]:.1f})"
    print(f"{name:<36} {rates} {1000 / middle:8.2f} ms", flush=True)


def options(arguments: list[str] | None) -> argparse.Namespace:
    """What is asked for; `clock` is the chosen one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=("overhead", "stages"))
    parser.add_argument("--model", help="overhead: a text-to-image folder or name; without it, a small one is made")
    parser.add_argument("--sets", type=int, default=16, help="collages, or sets of photos, a measurement")
    parser.add_argument("--unit", type=int, default=8, help="overhead: sets a unit")
    parser.add_argument("--batch", type=int, default=4, help="overhead: collages in a call")
    parser.add_argument("--steps", type=int, default=30, help="overhead: denoising steps")
    parser.add_argument("--side", type=int, default=128, help="overhead: pixels of a collage's side")
    parser.add_argument("--photos", default="../shared/dreambooth", help="stages: a folder of folders of photos")
    parser.add_argument("--segment", action="append", default=[], help="stages: one more segmenter, KIND:SOURCE")
    parser.add_argument("--only", action="append", help="stages: this one alone (may be given several times)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="stages: seconds of the processor, for a busy machine")
    parser.add_argument("--device", default=find_device(None))
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args(arguments)
    given.clock = time.process_time if given.cpu_time else time.perf_counter
    return given


def main(arguments: list[str] | None = None) -> None:
    asked = options(arguments)
    {"overhead": overhead, "stages": stages}[asked.question](asked)


if __name__ == "__main__":
    main()
