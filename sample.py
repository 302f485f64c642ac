"""References and prompts -> images.

python sample.py --references photos/ --prompt "a dog on the beach" --out out/beach
python sample.py --subject fox=DIR --subject hat=DIR --prompt "a fox and a hat in the snow" --out out/both

Writes 0000.png, 0001.png, ... (prompt after prompt), grid.png (references beside results) and samples.json
(what is needed to make the same images again: --config out/beach/samples.json --out out/again). The folder appears
when all is done: an error or Ctrl-C leaves nothing behind. Exit code 0: done, 2: a mistake in the request, in one line
on stderr, 130: interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jedi import checks
from jedi.errors import InputError, given
from jedi.io.command_line import Parser, add_sampling, exit_code
from jedi.io.devices import find_device
from jedi.io.ranges import DTYPES
from jedi.io.texts import is_text, read_json, read_lines
from jedi.loading import (
    OFFLOADS,
    load_loras,
    load_pipeline,
    loras_of,
    offload_to,
    scheduler_settings,
    used_settings,
    versions,
)
from jedi.rng import check_seed
from jedi.schedulers import SCHEDULERS, exchange
from jedi.sizes import REFERENCE_RESIZES

if TYPE_CHECKING:  # torch and diffusers are loaded after the request is known to make sense
    from PIL import Image

    from jedi.pipeline import JediPipeline

HERE = Path(__file__).resolve().parent
MOST_OUTPUTS = 100_000
"""More are refused: a slip in a number, not a wish."""


@dataclass
class Settings:
    """What is asked for; the keys of ``--config``, each also an option, whose help says what it means.

    ``None``: the model's default.
    """

    model: str = str(HERE / "models" / "jedi-tiny")
    revision: str | None = None
    variant: str | None = None
    model_config: str | None = None
    references: list[str] = field(default_factory=list)
    subjects: dict[str, str] = field(default_factory=dict)
    """Name -> folder, in place of ``references``."""
    prompts: list[str] = field(default_factory=list)
    prompts_file: str | None = None
    negative_prompt: str | None = None
    num_images_per_prompt: int = 1
    steps: int | None = None
    guidance: str | None = None
    guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    mode: str | None = None
    joint: bool = False
    height: int | None = None
    width: int | None = None
    reference_resize: str = "pad"
    seed: int = 0
    image: str | None = None
    mask_image: str | None = None
    scheduler: str | None = None
    lora: list[str] = field(default_factory=list)
    """Each ``FILE`` or ``FILE=SCALE``."""
    device: str | None = None
    dtype: str = "float32"
    offload: str | None = None
    vae_tiling: bool = False
    batch_size: int = 8
    extensions: list[str] = field(default_factory=list)
    out: str | None = None

    @property
    def captions(self) -> list[str]:
        """The prompt of each image: prompt after prompt, or with ``joint`` story after story."""
        if self.joint:
            return self.prompts * self.num_images_per_prompt
        return [prompt for prompt in self.prompts for _ in range(self.num_images_per_prompt)]

    def texts(self) -> Iterator[tuple[str, str]]:
        """Each text that the record will hold, after its option; names of references are checked as they are read."""
        yield from (("--prompt", prompt) for prompt in self.prompts)
        yield from (("--subject", name) for name in self.subjects)
        for key in (
            "model",
            "revision",
            "variant",
            "model_config",
            "negative_prompt",
            "image",
            "mask_image",
            "guidance",
            "mode",
            "device",
        ):
            if (text := getattr(self, key)) is not None:
                yield f"--{key.replace('_', '-')}", text


@dataclass
class Reference:
    """An image of a subject; ``subject`` is its name where several are given (`--subject`), else empty."""

    file: Path
    image: Image.Image
    subject: str = ""


class SubjectAction(argparse.Action):
    """Collects NAME=DIR, in the order given."""

    def __call__(self, parser, namespace, value, option_string=None) -> None:
        name, _, folder = value.partition("=")
        subjects = getattr(namespace, self.dest, {})
        if not (name.strip() and folder):
            parser.error(f"--subject {value}: expected NAME=DIR, for instance --subject fox=photos/fox")
        if name in subjects:
            parser.error(f"--subject {name} is given twice: put its images into one folder")
        setattr(namespace, self.dest, subjects | {name: folder})


def parser() -> argparse.ArgumentParser:
    """The options; only those that are given appear in the result."""
    text = "References and prompts -> images. In brackets: the default."
    p = Parser(prog="sample.py", description=text, argument_default=argparse.SUPPRESS)
    add = p.add_argument
    add("--references", nargs="+", metavar="DIR_OR_FILES", help="images of the subject, or folders of them")
    add("--subject", action=SubjectAction, dest="subjects", metavar="NAME=DIR",
        help="one of several subjects: its name and images; they appear from left to right as given")  # fmt: skip
    add("--prompt", action="append", dest="prompts", metavar="TEXT", help="what to show; may be repeated")
    add("--prompts-file", metavar="F", help="more prompts, one a line; lines with # in front do not count")
    add("--negative-prompt", metavar="TEXT", help="what not to show: guidance leads away from it (nothing)")
    add("--out", metavar="DIR", help="the folder to write")
    add("--num-images-per-prompt", type=int, metavar="N", help="images a prompt; with --joint, stories (1)")
    add_sampling(p)
    add("--joint", action="store_true", help="all prompts are one set, a story, and agree with one another")
    add("--height", type=int, metavar="H", help="pixels of what is made, a multiple of the vae's factor (the model's)")
    add("--width", type=int, metavar="W", help="likewise (the model's)")
    add("--reference-resize", metavar="R", help="pad (all of a reference is seen), crop or keep (its own aspect) (pad)")
    add("--seed", type=int, metavar="N", help="image i is made with seed N + i (0)")
    add("--image", metavar="F", help="an image to edit")
    add("--mask-image", metavar="F", help="what of it is to be generated (white)")
    add("--scheduler", metavar="NAME", help=f"{', '.join(SCHEDULERS)} (the model's)")
    add(
        "--lora",
        nargs="+",
        metavar="FILE[=SCALE]",
        help="LoRAs of the model or of its base, and how much each counts (1)",
    )
    add("--device", metavar="D", help="cpu, cuda, cuda:1, mps, ... (cuda if there is one)")
    add("--offload", metavar="HOW", help="parts lie on the CPU while they do nothing: model, or sequential (slow)")
    add("--vae-tiling", action="store_true", help="the vae works on tiles, which saves memory on large images")
    add("--config", metavar="F", help="a YAML file with these options as keys, or a samples.json; options win over it")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return exit_code(
        "sample.py",
        lambda: run(settings_from(vars(parser().parse_args(argv)))),
        ", nothing was written",
        "fewer --references or a smaller --batch-size need less; so do --dtype bfloat16, --vae-tiling, --offload model",
    )


def settings_from(arguments: dict[str, Any]) -> Settings:
    """Defaults, then ``--config``, then the options. Raises ``InputError`` for what makes no sense."""
    config = arguments.pop("config", None)
    settings = Settings()
    if config is not None:
        from jedi.io.config import build, load

        record = recorded(config)
        if record is None:
            settings = load(Settings, config)
        else:
            settings = build(Settings, record["request"], config)
            warn_of_changes(record, config)
    if {"references", "subjects"} & set(arguments):  # one stands in for the other
        settings = replace(settings, references=[], subjects={})
    settings = replace(settings, **arguments)
    if settings.extensions:
        from jedi.io.config import import_extensions

        import_extensions(settings.extensions)
    if settings.prompts_file is not None:
        more = read_prompts(Path(settings.prompts_file))
        settings = replace(settings, prompts=[*settings.prompts, *more], prompts_file=None)
    check(settings)
    return settings


def recorded(config: str) -> dict[str, Any] | None:
    """A record that this program wrote; None if the file is none."""
    if not config.lower().endswith(".json"):
        return None
    with given(f"--config {config}"):
        record = read_json(config, f"--config {config}")
    return record if isinstance(record, dict) and isinstance(record.get("request"), dict) else None


def warn_of_changes(record: dict[str, Any], config: str) -> None:
    """Says which images of a record are no more what they were. Raises ``InputError`` for a damaged record."""
    from jedi.io.files import file_sha256

    try:
        read = (*record["references"], *record["edit"].values(), *record.get("loras", ()))
        images = [(Path(x["file"]), x["sha256"]) for x in read]
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"--config {config}: a damaged record, its references or edit are not as sample.py writes them ({error}); "
            "what it needs is its request: put that alone into a file"
        ) from None
    for file, digest in images:
        if file.is_file() and file_sha256(file) != digest:
            print(f"sample.py: {file} has changed since; the images will be others", file=sys.stderr)


def read_prompts(path: Path) -> list[str]:
    """The prompts in a file. Raises ``InputError`` if it cannot be read as text."""
    with given(name := f"--prompts-file {path}"):
        return [line for line in read_lines(path, name) if not line.startswith("#")]


def check(settings: Settings) -> None:
    """Raises ``InputError`` for numbers and names that make no sense."""
    if not any(prompt.strip() for prompt in settings.prompts):
        raise InputError("no prompt: give --prompt TEXT (may be repeated) or --prompts-file F with a line")
    for option, text in settings.texts():
        if not is_text(text):  # it could stand in no record, and no tokenizer takes it
            raise InputError(f"{option} {text!a}: not UTF-8; set the terminal to it, rename the file, or use --config")
    if settings.out is None:
        raise InputError("no place to write to: give --out DIR")
    if settings.references and settings.subjects:
        raise InputError("--references shows one subject, --subject names each of several: give one or the other")
    checks.check_options(settings, checks.check_count, "num_images_per_prompt", "steps", "batch_size")
    checks.check_options(settings, checks.check_count, "height", "width")
    checks.check_choice("--reference-resize", settings.reference_resize, REFERENCE_RESIZES)
    if (count := len(settings.prompts) * settings.num_images_per_prompt) > MOST_OUTPUTS:
        lower = "lower --num-images-per-prompt"
        raise InputError(f"{count:,} images are asked for, at most {MOST_OUTPUTS:,} are made: {lower}")
    checks.check_options(settings, checks.check_scale, "guidance_scale", "image_guidance_scale")
    check_seed(settings.seed, "--seed", len(settings.captions))
    if settings.scheduler is not None:
        checks.check_choice("--scheduler", settings.scheduler, SCHEDULERS)
    checks.check_choice("--dtype", settings.dtype, DTYPES)
    if settings.offload is not None:
        checks.check_choice("--offload", settings.offload, OFFLOADS)
    loras_of(settings.lora)
    checks.check_pair("--image", settings.image, "--mask-image", settings.mask_image)


def run(settings: Settings) -> None:
    """From settings to the finished folder."""
    from jedi.io.files import ResultFolder
    from jedi.io.hub import find_model
    from jedi.io.images import RECORD, load_image, load_mask

    references = read_references(settings)
    image = None if settings.image is None else load_image(settings.image)
    mask_image = None if settings.mask_image is None else load_mask(settings.mask_image)
    find_model(settings.model)  # refused now, before anything is loaded
    names = [f"{i:04d}.png" for i in range(len(settings.captions))]
    with ResultFolder(settings.out, [*names, "grid.png", RECORD]) as folder:
        files = (settings.revision, settings.variant, settings.model_config)
        offload = settings.offload is not None
        pipe, digests = load_pipeline(settings.model, settings.device, settings.dtype, *files, offload=offload)
        if settings.vae_tiling:
            pipe.enable_vae_tiling()
        pipe.set_progress_bar_config(disable=False)
        if pipe.config.knows:
            print(f"sample.py: what {Path(settings.model).name} knows: {pipe.config.knows}", file=sys.stderr)
        if settings.scheduler is not None:
            pipe.scheduler = exchange(pipe.scheduler, settings.scheduler)
        load_loras(pipe, loras_of(settings.lora))
        if settings.offload is not None:
            offload_to(pipe, settings.offload, settings.device)
        results = []
        for name, result in zip(names, sample(pipe, settings, references, image, mask_image), strict=True):
            result.save(folder / name)
            results.append(result)
        given = [(x.image, x.subject or x.file.name) for x in references]
        given += [(image, "to be edited")] if image else []
        sheet(settings, given, results).save(folder / "grid.png")
        record = json.dumps(describe(pipe, digests, settings, references, names), indent=2, ensure_ascii=False)
        (folder / RECORD).write_text(record + "\n", encoding="utf-8")
    plural = "s" * (len(names) > 1)
    print(f"{len(names)} image{plural}; beside the references: {Path(settings.out) / 'grid.png'}")


def read_references(settings: Settings) -> list[Reference]:
    """The images of all subjects, subject after subject. Raises ``InputError`` for a bad one."""
    from jedi.io.images import find_images, load_image

    references = []
    for name, paths in [(name, [path]) for name, path in settings.subjects.items()] or [("", settings.references)]:
        files, ignored = find_images(paths)
        if Path(settings.out).resolve() in {file.parent.resolve() for file in files}:
            raise InputError(f"--out {settings.out} is a folder of references: what is made would be one the next time")
        if ignored:
            print(f"sample.py: left out, no references: {', '.join(x.name for x in ignored)}", file=sys.stderr)
        references += [Reference(file, load_image(file), name) for file in files]
    return references


def side_by_side(references: list[Reference], height: int, width: int) -> tuple[list[Image.Image], list[str] | None]:
    """Images and captions for the pipeline. Several subjects are put into a row, since a small model keeps the
    place of what it is shown, and go by their names."""
    from jedi.io.images import place_in_row

    subjects = list(dict.fromkeys(x.subject for x in references))
    if subjects in ([], [""]):
        return [x.image for x in references], None
    place = lambda x: place_in_row(x.image, subjects.index(x.subject), len(subjects), width, height)
    return [place(x) for x in references], [x.subject for x in references]


def sample(
    pipe: JediPipeline,
    settings: Settings,
    references: list[Reference],
    image: Image.Image | None = None,
    mask_image: Image.Image | None = None,
) -> Iterator[Image.Image]:
    """The images one after another, in batches; image i does not depend on the batch it is in."""
    from jedi.attention import ATTENTION_MODES
    from jedi.pipeline import image_generators

    fit = {"height": settings.height, "width": settings.width, "reference_resize": settings.reference_resize}
    options = {
        **used_settings(pipe, settings),
        **fit,
        "image": image,
        "mask_image": mask_image,
        "negative_prompt": settings.negative_prompt,
        "joint": settings.joint,
    }
    usual = pipe.image_size
    given, captions = side_by_side(references, settings.height or usual[0], settings.width or usual[1])
    if given and ATTENTION_MODES.get(options["mode"]).cacheable:
        options["cache"] = pipe.encode_references(given, captions, mode=options["mode"], **fit)
    else:
        options |= {"references": given, "reference_prompts": captions}
    size = len(settings.prompts) if settings.joint else settings.batch_size
    batches = [settings.captions[i : i + size] for i in range(0, len(settings.captions), size)]
    first = 0
    for batch in batches:
        pipe.set_progress_bar_config(desc=f"images made: {first} of {len(settings.captions)}", leave=False)
        generators = image_generators(settings.seed + first, len(batch))
        yield from pipe(batch, generator=generators, **options).images
        first += len(batch)


def sheet(settings: Settings, given: list[tuple[Image.Image, str]], results: list[Image.Image]) -> Image.Image:
    """Results in rows (a prompt or a story each), to the right of what was given."""
    from jedi.io.contact_sheet import contact_sheet

    cells = list(zip(results, settings.captions, strict=True))
    width = len(settings.prompts) if settings.joint else settings.num_images_per_prompt
    right = [cells[i : i + width] for i in range(0, len(cells), width)]
    columns = min(len(given), 4)
    left = [given[i : i + columns] for i in range(0, len(given), columns or 1)]
    rows = [
        [*beside, *[(None, "")] * (columns - len(beside)), *row]
        for beside, row in itertools.zip_longest(left, right, fillvalue=[])
    ]
    return contact_sheet(rows, tile=min(max(160, *results[0].size), 320))


def describe(
    pipe: JediPipeline, digests: dict[str, str], settings: Settings, references: list[Reference], names: list[str]
) -> dict[str, Any]:
    """Everything that the images depend on; ``digests`` as :func:`jedi.loading.load_pipeline` gives them."""
    from jedi.io.files import file_sha256

    digest = lambda file: {"file": str(file), "sha256": file_sha256(file)}
    return {
        "format": 1,
        "request": {key: value for key, value in asdict(settings).items() if key != "out"},
        "files": [*names, "grid.png"],
        "images": [
            {"file": name, "prompt": prompt, "seed": settings.seed + i}
            for i, (name, prompt) in enumerate(zip(names, settings.captions, strict=True))
        ],
        "references": [digest(x.file) | ({"subject": x.subject} if x.subject else {}) for x in references],
        "loras": [digest(file) | {"scale": scale} for file, scale in loras_of(settings.lora)],
        "edit": {key: digest(getattr(settings, key)) for key in ("image", "mask_image") if getattr(settings, key)},
        "settings": {
            **used_settings(pipe, settings),
            "joint": settings.joint,
            "height": settings.height or pipe.image_size[0],
            "width": settings.width or pipe.image_size[1],
            "reference_resize": settings.reference_resize,
            "num_images_per_prompt": settings.num_images_per_prompt,
            "negative_prompt": settings.negative_prompt,
            "scheduler": scheduler_settings(pipe),
            "extensions": settings.extensions,
            "device": str(pipe.device) if settings.offload is None else find_device(settings.device),
            "dtype": settings.dtype,
            "offload": settings.offload,
            "vae_tiling": settings.vae_tiling,
            "batch_size": settings.batch_size,
        },
        "model": {"name": settings.model, "sha256": digests},
        "versions": versions(),
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception: `with` cleans up
    sys.exit(main())
