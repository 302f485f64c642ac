"""DreamBench: its subjects, prompts, references and published figures, what is generated, and what is scored.

DreamBench (Ruiz et al., "DreamBooth", CVPR 2023, arXiv 2208.12242, section 5): 30 subjects, 25 prompts each, 4 images
a prompt. Its folder, ``dataset`` of github.com/google/dreambooth, holds a folder of photographs for each subject and
``prompts_and_classes.txt``, from which the nouns and prompts are read here: nothing of it is repeated in code.
DreamBench++'s folder is read too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jedi.errors import InputError, given
from jedi.evaluation.generate import ImageRequest, seed_of
from jedi.evaluation.score import COPIED, MODEL, ORACLE, WITHOUT, ScoredImage, ScoredSubject
from jedi.io.images import SUFFIXES
from jedi.io.texts import read_json, read_lines, read_text

PROMPTS_FILE = "prompts_and_classes.txt"
LIVE = ("cat", "dog")
"""Nouns whose subjects get the prompts for live subjects; the file doesn't say which do. DreamBench has nine."""
SUBJECTS, PROMPTS, IMAGES = 30, 25, 4
"""The full protocol: subjects, prompts a subject, images a prompt."""

REFERENCES: dict[str, tuple[str, str, str]] = {
    "backpack": ("02", "00", "05"),
    "backpack_dog": ("02", "00", "04"),
    "bear_plushie": ("03", "01", "04"),
    "berry_bowl": ("02", "00", "04"),
    "can": ("01", "00", "04"),
    "candle": ("02", "01", "04"),
    "cat": ("04", "00", "01"),
    "cat2": ("02", "00", "03"),
    "clock": ("03", "04", "05"),
    "colorful_sneaker": ("01", "02", "03"),
    "dog": ("02", "00", "04"),
    "dog2": ("02", "00", "03"),
    "dog3": ("05", "02", "03"),
    "dog5": ("00", "02", "04"),
    "dog6": ("02", "03", "04"),
    "dog7": ("01", "02", "04"),
    "dog8": ("04", "01", "03"),
    "duck_toy": ("01", "00", "02"),
    "fancy_boot": ("02", "03", "05"),
    "grey_sloth_plushie": ("04", "01", "02"),
    "monster_toy": ("04", "01", "03"),
    "pink_sunglasses": ("04", "01", "03"),
    "poop_emoji": ("00", "01", "04"),
    "rc_car": ("03", "00", "01"),
    "red_cartoon": ("00", "01", "03"),
    "robot_toy": ("00", "02", "04"),
    "shiny_sneaker": ("01", "03", "05"),
    "teapot": ("04", "00", "02"),
    "vase": ("02", "01", "04"),
    "wolf_plushie": ("04", "01", "03"),
}
"""File stems. The first is the single reference of Kosmos-G (Pan et al., ICLR 2024, arXiv 2310.02992), read from
``scripts/remove_dreambench_multiimg.sh`` of github.com/xichenpan/Kosmos-G at commit f5c0489; papers that report
one-reference scores follow it. The other two are ours, for no published list of three is known to us. Chosen by eye:
the subject whole and large, in another view or place, never a mirrored or shifted copy (as are cat 03 and dog5 03)."""


class BenchmarkError(InputError):
    """A benchmark's folder that cannot be used; the message names the file and what would be right."""


@dataclass(frozen=True)
class DreamBenchSubject:
    """One subject of a benchmark."""

    name: str
    """Letters, digits and ``_``."""
    noun: str
    """The class noun, as "stuffed animal"."""
    kind: str
    """"object" or "live" in DreamBench; the category in DreamBench++."""
    templates: tuple[str, ...]
    """Prompts with ``{}`` where identifier and noun go (DreamBench), or whole ones (DreamBench++)."""
    images: tuple[Path, ...]
    """All its real images."""
    references: tuple[Path, ...]
    """Those that a method is given."""

    def prompts(self, identifier: str = "") -> tuple[str, ...]:
        """The prompts with the noun, after ``identifier`` if there is one. CLIP-T is scored without."""
        words = f"{identifier} {self.noun}".strip()
        return tuple(template.replace("{}", words) for template in self.templates)


@dataclass(frozen=True)
class Benchmark:
    """Subjects, and in ``remarks`` how they differ from the published protocol."""

    name: str
    subjects: tuple[DreamBenchSubject, ...]
    references: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """A row of figures that others reported. ``None``: not reported.

    Encoders: DINO ViT-S/16, CLIP ViT-B/32. Some average over all real images of a subject, some compare with the
    given reference only, as Kosmos-G's code does; so differences of a few hundredths mean little.
    """

    method: str
    references: str
    dino: float
    clip_i: float
    clip_t: float | None
    source: str


_DREAMBOOTH = "DreamBooth, arXiv 2208.12242"
_DREAMCACHE = "as reported by DreamCache, arXiv 2411.17786"
_UNO = "UNO, arXiv 2504.02160"
PUBLISHED = (
    Published("real images", "", 0.774, 0.885, None, _DREAMBOOTH),
    Published("JeDi", "1", 0.619, 0.782, 0.304, _DREAMCACHE),
    Published("DreamBooth (SD), tuned per subject", "3-5", 0.668, 0.803, 0.305, _DREAMBOOTH),
    Published("DreamBooth (Imagen), tuned per subject", "3-5", 0.696, 0.812, 0.306, _DREAMBOOTH),
    Published("Textual Inversion, tuned per subject", "3-5", 0.569, 0.780, 0.255, _DREAMBOOTH),
    Published("Custom Diffusion, tuned per subject", "3-5", 0.643, 0.790, 0.305, _DREAMCACHE),
    Published("BLIP-Diffusion", "1", 0.594, 0.779, 0.300, _DREAMCACHE),
    Published("ELITE", "1", 0.621, 0.771, 0.293, _DREAMCACHE),
    Published("IP-Adapter (SD1.5)", "1", 0.667, 0.813, 0.289, _DREAMCACHE),
    Published("BootPIG", "3", 0.674, 0.797, 0.311, _DREAMCACHE),
    Published("UNO (FLUX)", "1", 0.760, 0.835, 0.304, _UNO),
    Published("OminiControl (FLUX)", "1", 0.684, 0.799, 0.312, f"as reported by {_UNO}"),
)
"""The figures to stand against (docs/method.md §7 has the same)."""


def read_benchmark(folder: str | Path, references: int = 1, lists: str | Path | None = None) -> Benchmark:
    """DreamBench or DreamBench++, whichever lies in ``folder``.

    Args:
        references: how many a method is given, 1 or 3: the first of ``REFERENCES``.
        lists: a JSON file with lists of one's own, ``{"SUBJECT": ["02.jpg", ...]}``, in place of them.

    Raises:
        BenchmarkError: neither lies there, or a file is missing or makes no sense.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BenchmarkError(f"--data {folder}: no such folder")
    for place in (folder, folder / "dataset"):
        if (place / PROMPTS_FILE).is_file():
            return _read_dreambench(place, references, None if lists is None else _read_lists(Path(lists)))
    if (folder / "captions").is_dir() and (folder / "images").is_dir():
        if references != 1 or lists is not None:
            raise BenchmarkError(f"{folder} is DreamBench++: it has one image a subject; --refs 1 and no list fit")
        return _read_dreambench_plus(folder)
    raise BenchmarkError(
        f"--data {folder}: neither DreamBench (a folder for each subject and {PROMPTS_FILE}) nor DreamBench++ "
        "(folders images and captions)"
    )


def read_prompts(file: Path) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """``prompts_and_classes.txt`` -> noun of each subject; templates, with one ``{}``, of "object" and "live"."""
    with given(str(file)):
        text = read_text(file)
    parts = re.split(r"^(Classes|Prompts|Object Prompts|Live Subject Prompts)\s*$", text, flags=re.M)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    for name in ("Classes", "Object Prompts", "Live Subject Prompts"):
        if name not in sections:
            raise BenchmarkError(f"{file}: no section {name!r}; expected DreamBench's file")
    rows = [line.split(",") for line in map(str.strip, sections["Classes"].splitlines()) if line]
    if any(len(row) != 2 for row in rows) or not rows:
        raise BenchmarkError(f"{file}: under 'Classes' each line is SUBJECT,NOUN")
    nouns = {name.strip(): noun.strip() for name, noun in rows if name.strip() != "subject_name"}
    templates = {}
    for kind, name in (("object", "Object Prompts"), ("live", "Live Subject Prompts")):
        found = [match[1] for match in re.findall(r"""(['"])(.*?)\1\s*\.format\(""", sections[name])]
        if not found or any("{0} {1}" not in template for template in found):
            raise BenchmarkError(f"{file}: under {name!r} each prompt is '... {{0}} {{1}} ...'.format(...)")
        templates[kind] = tuple(template.replace("{0} {1}", "{}") for template in found)
    return nouns, templates


def _read_dreambench(folder: Path, references: int, lists: Mapping[str, list[str]] | None) -> Benchmark:
    nouns, templates = read_prompts(folder / PROMPTS_FILE)
    if lists is not None and (unknown := sorted(set(lists) - set(nouns))):
        raise BenchmarkError(f"the list of references names {unknown[0]!r}, which {folder / PROMPTS_FILE} does not")
    subjects, remarks, unlisted = [], [], []
    for name, noun in sorted(nouns.items()):
        if not re.fullmatch(r"\w+", name):
            raise BenchmarkError(f"{folder / PROMPTS_FILE}: subject {name!r}: expected letters, digits and '_'")
        if not (folder / name).is_dir():
            raise BenchmarkError(f"{folder / name}: no such folder, but {PROMPTS_FILE} names the subject")
        files = sorted(x for x in (folder / name).iterdir() if x.name[0] != ".")
        images = tuple(x for x in files if x.suffix.lower() in SUFFIXES)
        if len(images) < references:
            raise BenchmarkError(f"{folder / name}: {len(images)} images; expected {references} or more")
        if lists is not None:
            if name not in lists:
                raise BenchmarkError(f"the list of references has none for the subject {name!r}")
            chosen = [_find(images, wanted, folder / name) for wanted in lists[name]]
        elif name in REFERENCES:
            chosen = [_find(images, stem, folder / name) for stem in REFERENCES[name][:references]]
        else:
            chosen = list(images[:references])
            unlisted.append(name)
        kind = "live" if noun in LIVE else "object"
        subjects.append(DreamBenchSubject(name, noun, kind, templates[kind], images, tuple(chosen)))
    if unlisted:
        remarks.append(f"{len(unlisted)} subjects are not DreamBench's: their first images are the references")
    if set(nouns) != set(REFERENCES):
        remarks.append(f"{len(nouns)} subjects in the folder, which are not DreamBench's {SUBJECTS}")
    if any(len(subject.templates) != PROMPTS for subject in subjects):
        counts = " and ".join(str(len(x)) for x in templates.values())
        remarks.append(f"{counts} prompts a subject in the folder, not {PROMPTS}")
    if lists is not None:
        named = "references by another list"
        remarks.append("the references are not the usual ones: they are by another list")
    elif references == 1:
        named = "1 reference, Kosmos-G's list"
    else:
        named = f"{references} references: Kosmos-G's and {references - 1} of a fixed list of this project"
    return Benchmark("DreamBench", tuple(subjects), named, tuple(remarks))


def _read_dreambench_plus(folder: Path) -> Benchmark:
    """DreamBench++ (Peng et al. 2025, arXiv 2406.16855): ``images/CATEGORY/NN.jpg``, ``captions/CATEGORY/NN.txt``.

    CATEGORY is as ``live_subject/animal``; a caption file's first line is the noun, each other line a whole prompt.
    """
    subjects = []
    for file in sorted((folder / "captions").rglob("*.txt")):
        place = file.relative_to(folder / "captions").with_suffix("")
        with given(str(file)):
            lines = read_lines(file)
        if len(lines) < 2:
            raise BenchmarkError(f"{file}: expected the subject's noun and then its prompts, a line each")
        files = sorted((folder / "images" / place.parent).glob(f"{place.name}.*"))
        images = [x for x in files if x.suffix.lower() in SUFFIXES]
        if len(images) != 1:
            raise BenchmarkError(f"{file}: {len(images)} files images/{place}.*, expected one")
        name = re.sub(r"\W+", "_", place.as_posix())
        kind = " ".join(place.parts[:-1]).replace("_", " ") or "subject"
        subjects.append(DreamBenchSubject(name, lines[0], kind, tuple(lines[1:]), tuple(images), tuple(images)))
    if not subjects:
        raise BenchmarkError(f"{folder / 'captions'}: no .txt file; DreamBench++ has one for each image")
    remarks = [] if len(subjects) == 150 else [f"{len(subjects)} subjects in the folder, not DreamBench++'s 150"]
    if any(len(subject.templates) != 9 for subject in subjects):
        remarks.append("not all subjects have 9 prompts")
    return Benchmark("DreamBench++", tuple(subjects), "1 reference, the subject's only image", tuple(remarks))


def _find(images: tuple[Path, ...], wanted: str, folder: Path) -> Path:
    """The image of that file name or stem."""
    for image in images:
        if wanted in (image.name, image.stem):
            return image
    raise BenchmarkError(f"{folder}: no image {wanted!r}, which the list of references names")


def _read_lists(file: Path) -> dict[str, list[str]]:
    with given(str(file)):
        lists = read_json(file)
    right = isinstance(lists, dict) and all(
        isinstance(names, list) and names and all(isinstance(name, str) for name in names) for names in lists.values()
    )
    if not right:
        raise BenchmarkError(f'{file}: expected {{"SUBJECT": ["02.jpg", ...], ...}}')
    return lists


def plan(
    benchmark: Benchmark,
    num_images_per_prompt: int = IMAGES,
    no_reference: int = 1,
    seed: int = 0,
    identifier: str = "",
) -> list[ImageRequest]:
    """All images: those of each subject, prompt after prompt, then those without references (``no_reference/...``).

    An image's noise depends on ``seed`` and its name alone, so a smaller run makes some of a larger one's images.
    """
    items = []
    for prefix, count in (("", num_images_per_prompt), (f"{WITHOUT}/", no_reference)):
        for subject in benchmark.subjects:
            prompts = subject.prompts("" if prefix else identifier)
            for id, p in _ids(subject, count, prefix):
                items.append(ImageRequest(id, (prompts[p],), () if prefix else subject.references, seed_of(seed, id)))
    return items


def groups(
    benchmark: Benchmark, folder: str | Path, num_images_per_prompt: int = IMAGES, no_reference: int = 1
) -> list[ScoredSubject]:
    """What is scored against what: for each subject the cases of all rows. Arguments as for :func:`plan`."""
    images, result = Path(folder) / "images", []
    for subject in benchmark.subjects:
        prompts, cases = subject.prompts(), []
        for row, prefix, count in ((MODEL, "", num_images_per_prompt), (WITHOUT, f"{WITHOUT}/", no_reference)):
            cases += [ScoredImage(id, row, images / f"{id}.png", prompts[p]) for id, p in _ids(subject, count, prefix)]
        for p, prompt in enumerate(prompts):
            cases.append(ScoredImage(f"{subject.name}/{p:02}", COPIED, subject.references[0], prompt))
        cases += [ScoredImage(f"{subject.name}/{x.name}", ORACLE, x, leave_out=True) for x in subject.images]
        result.append(ScoredSubject(subject.name, subject.images, subject.references, tuple(cases)))
    return result


def _ids(subject: DreamBenchSubject, count: int, prefix: str) -> list[tuple[str, int]]:
    """Name and number of the prompt of each image of a subject."""
    return [(f"{prefix}{subject.name}/{p:02}-{i}", p) for p in range(len(subject.templates)) for i in range(count)]
