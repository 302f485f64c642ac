"""The encoder of the toy benchmark: a small CLIP that sees subject and background in a 64-pixel image.

`SubjectEncoder` reads images. ``python -m jedi_toy.benchmark.encoder --config configs/evaluation/encoder.yaml``
trains one on real renders of training subjects, and writes a plain CLIPModel folder with a file of probes beside the
weights.

What one image shows is learnt by three objectives at once:

- *subject*: the first ``subject_width`` channels of the image embedding are alike for images of one subject and
  unlike for all others (supervised contrast, arXiv 2004.11362), whatever background, pose, size and place. Each batch
  holds recolourings of one drawing, so that colours count.
- *text*: the whole embedding agrees with its caption's (CLIP, arXiv 2103.00020).
- *probes*: a linear map of the vision tower's output (the vector that the embedding is made of, and the mean over the
  patches) names the background.

A probe for the pose was tried and learnt nothing at this scale: whether a subject that one has never seen is tilted is
a question about all the things in the world. Of a known subject it is easily told: :func:`.judge.posed`.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jedi.io.command_line import Parser, add_settings, exit_code, help_at_once


def make_parser() -> Parser:
    """The command's arguments."""
    parser = Parser(prog="python -m jedi_toy.benchmark.encoder", description=__doc__.split("\n")[0])
    add_settings(parser, "configs/evaluation/encoder.yaml", "out=models/mine")
    return parser


if __name__ == "__main__":
    help_at_once(make_parser)

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from jedi.data import SetDataset, SetIndex
from jedi.errors import InputError
from jedi.io.config import ConfigError, of_command, to_dict
from jedi.io.files import atomic, locked
from jedi.io.images import fit_square, to_rgb, to_tensor
from jedi.io.parts import load_network
from jedi.io.ranges import Count, NotNegative, Positive, Share, Whole
from jedi.rng import keyed_generator, seed_global
from jedi.training import checkpoints
from jedi_toy.tiny_base import TextEncoderConfig, train_tokenizer

log = logging.getLogger(__name__)

PROBES = "probes.safetensors"


@dataclass
class VisionTowerConfig:
    """CLIP's vision transformer."""

    width: Count = 192
    layers: Count = 4
    heads: Count = 6
    patch: Count = 8


@dataclass
class TextTowerConfig:
    """CLIP's text transformer, and its vocabulary, which is learnt from the captions."""

    width: Count = 128
    layers: Count = 2
    heads: Count = 4
    vocabulary: Count = 1200
    length: Count = 40


@dataclass
class EncoderConfig:
    """What ``python -m jedi_toy.benchmark.encoder --config FILE`` takes."""

    data: str
    """Folder of shards: its training split is learnt, its held-out split only watched."""
    out: str
    """The folder to write; checkpoints lie in ``OUT.training`` until it is done."""
    seed: Whole = 0
    sets: Count = 10_000
    """At most so many training sets are held in memory (50 kB each at 64 pixels)."""
    vision: VisionTowerConfig = field(default_factory=VisionTowerConfig)
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    embedding: Count = 192
    subject_width: Count = 128
    """Leading channels of an image embedding that tell the subject."""
    steps: Count = 1600
    drawings: Count = 24
    """Different drawings in a batch ..."""
    recoloured: Whole = 8
    """... of which so many are there in a second recolouring."""
    images_per_set: Count = 4
    learning_rate: Positive = 1e-3
    temperature: Positive = 0.1
    """Of the contrast between subjects."""
    text_weight: NotNegative = 0.5
    probe_weight: NotNegative = 0.3
    softness: Share = 0.7
    """Images are blurred by up to this share and get a little noise, as a VAE's decoder shows them."""
    bf16: bool = False
    """Mixed precision: worth it on CPUs with AVX512-BF16 or AMX, very slow on others."""
    checkpoint_every_steps: Count = 100

    def __post_init__(self) -> None:
        if self.subject_width > self.embedding:
            raise InputError(f"subject_width={self.subject_width}: it must be at most embedding={self.embedding}")
        if self.recoloured > self.drawings:
            raise InputError(f"recoloured={self.recoloured}: it must be at most drawings={self.drawings}")


class Probes(nn.Module):
    """Linear maps from :func:`see`'s vectors ``[n v]`` to words: {"background": [...]}."""

    def __init__(self, width: int, words: dict[str, list[str]]) -> None:
        super().__init__()
        self.words = words
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(choices)) for name, choices in words.items()})

    def forward(self, vectors: Tensor) -> dict[str, Tensor]:
        """Logits ``[n words]`` by attribute."""
        return {name: head(vectors) for name, head in self.heads.items()}

    def save(self, file: Path) -> None:
        """One safetensors file; the words are its metadata."""
        tensors = {name: value.detach().contiguous() for name, value in self.heads.state_dict().items()}
        save_file(tensors, file, {"words": json.dumps(self.words)})

    @classmethod
    def load(cls, file: Path) -> Probes:
        """From :meth:`save`."""
        with safe_open(file, "pt") as stored:
            words = json.loads(stored.metadata()["words"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
        probes = cls(next(tensor.shape[1] for tensor in tensors.values() if tensor.ndim == 2), words)
        probes.heads.load_state_dict(tensors)
        return probes


@dataclass(frozen=True)
class Reading:
    """What the encoder sees in ``n`` images."""

    subject: Tensor
    """``[n i]``, normalised: alike for one subject."""
    embedding: Tensor
    """``[n d]``, normalised: to compare with texts."""
    words: dict[str, list[str]]
    """Attribute -> the probe's word for each image."""


class SubjectEncoder:
    """A trained encoder: ``SubjectEncoder.load("models/emoji-clip")``."""

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, probes: Probes, name: str = "emoji-clip") -> None:
        self.model, self.tokenizer, self.probes, self.name = model.eval(), tokenizer, probes.eval(), name

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> SubjectEncoder:
        """Raises ``ConfigError`` where ``folder`` holds no such encoder."""
        folder = Path(folder)
        for name in ("config.json", "model.safetensors", PROBES):
            if not (folder / name).is_file():
                raise ConfigError(f"{folder}: no {name}; an encoder is made by `python -m jedi_toy.benchmark.encoder`")
        model = load_network(CLIPModel, folder, local_files_only=True)
        if not hasattr(model.config, "subject_width"):
            raise ConfigError(f"{folder / 'config.json'}: no subject_width; a CLIP that was not trained on subjects?")
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(model.to(device), tokenizer, Probes.load(folder / PROBES).to(device), folder.name)

    @property
    def image_size(self) -> int:
        """Side of the images it sees, in pixels; others are fitted into that square as a whole."""
        return self.model.config.vision_config.image_size

    @torch.inference_mode()
    def read(self, images: Sequence[Image.Image], batch_size: int = 128) -> Reading:
        """Reads images of any size."""
        size = self.image_size
        squares = [fit_square(to_rgb(image), size)[0] for image in images]
        parts = [
            see(self.model, to_tensor(squares[start : start + batch_size]).to(self.model.device))
            for start in range(0, len(squares), batch_size)
        ]
        vectors, embedding = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        logits = self.probes(vectors)
        words = {
            name: [self.probes.words[name][i] for i in values.argmax(1).tolist()] for name, values in logits.items()
        }
        subject = F.normalize(embedding[:, : self.model.config.subject_width], dim=1)
        return Reading(subject.cpu(), F.normalize(embedding, dim=1).cpu(), words)

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """``[n i]``: the part of the embedding that tells the subject, normalised."""
        return self.read(images).subject

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """``[n d]``, normalised; to be compared with :attr:`Reading.embedding`."""
        tokens = tokenise(self.tokenizer, texts).to(self.model.device)
        return F.normalize(describe(self.model, tokens), dim=1).cpu()


def see(model: CLIPModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Images ``[n 3 H W]`` in [-1, 1] -> vectors for the probes ``[n 2w]`` and embeddings ``[n d]``, float32."""
    seen = model.vision_model(pixel_values=pixels)
    vectors = torch.cat([seen.pooler_output, seen.last_hidden_state[:, 1:].mean(1)], dim=1)
    return vectors.float(), model.visual_projection(seen.pooler_output).float()


def describe(model: CLIPModel, tokens: Tensor) -> Tensor:
    """Tokens ``[n l]`` -> embeddings ``[n d]``, float32."""
    return model.text_projection(model.text_model(input_ids=tokens).pooler_output).float()


def tokenise(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """``[n l]``, padded to the tokenizer's length."""
    return tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids


# Training.


class Sets:
    """Training sets in memory: images as bytes ``[s n 3 H W]``, captions, and each image's words."""

    def __init__(self, data: str, split: str, n: int, most: int) -> None:
        index = SetIndex.read(data, split)
        sets = SetDataset(index)
        chosen = [i for i, record in enumerate(index.sets) if record.n >= n][:most]
        if not chosen:
            raise ConfigError(f"{data}/{split}: no set of {n} images or more; images_per_set says how many")
        records = [sets.record(i) for i in tqdm(chosen, desc=f"{split} records", unit="set", dynamic_ncols=True)]
        self.images = torch.stack(
            [
                ((sets.images(i, range(n)) + 1) * 127.5).round().byte()
                for i in tqdm(chosen, desc=f"{split} images", unit="set", dynamic_ncols=True)
            ]
        )
        self.captions = [record["captions"][:n] for record in records]
        self.subjects = [record["subject"]["id"] for record in records]
        self.words = {"background": [[image["background"] for image in record["images"][:n]] for record in records]}
        self.by_drawing: dict[str, dict[str, list[int]]] = {}
        for i, record in enumerate(records):
            subject = record["subject"]
            self.by_drawing.setdefault(subject["code_point"], {}).setdefault(subject["id"], []).append(i)

    def pixels(self, chosen: Sequence[int]) -> Tensor:
        """``[(s n) 3 H W]`` in [-1, 1]."""
        return self.images[list(chosen)].flatten(0, 1).float() / 127.5 - 1

    def batch(self, seed: int, step: int, drawings: int, recoloured: int) -> list[int]:
        """The sets of a step, a pure function of (seed, step): ``drawings`` different ones, ``recoloured`` of
        them in a second recolouring too (fewer, where a drawing has only one)."""
        generator = keyed_generator(seed, "encoder", step)
        names = list(self.by_drawing)
        chosen = []
        for place, i in enumerate(torch.randperm(len(names), generator=generator)[:drawings].tolist()):
            colours = list(self.by_drawing[names[i]].values())
            wanted = torch.randperm(len(colours), generator=generator)[: 2 if place < recoloured else 1].tolist()
            for sets in (colours[j] for j in wanted):
                chosen.append(sets[int(torch.randint(len(sets), (1,), generator=generator))])
        return chosen


def subject_loss(embedding: Tensor, subjects: Sequence[str], temperature: float) -> Tensor:
    """Supervised contrast (arXiv 2004.11362, "L_out") of ``[n i]`` images: the mean over each image's positives."""
    unit = F.normalize(embedding, dim=1)
    own = torch.eye(len(unit), dtype=torch.bool)
    logits = (unit @ unit.T / temperature).masked_fill(own, float("-inf"))
    numbers = {name: i for i, name in enumerate(subjects)}
    labels = torch.tensor([numbers[name] for name in subjects])
    positive = (labels[:, None] == labels) & ~own
    scores = logits.log_softmax(1).masked_fill(~positive, 0).sum(1) / positive.sum(1).clamp(min=1)
    return -scores.mean()


def text_loss(images: Tensor, texts: Tensor, captions: Sequence[str], scale: Tensor) -> Tensor:
    """CLIP's symmetric contrast of ``[n d]`` images and captions; equal captions count as equally right."""
    logits = scale.exp().clamp(max=100) * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    numbers = {caption: i for i, caption in enumerate(captions)}
    labels = torch.tensor([numbers[caption] for caption in captions])
    wanted = (labels[:, None] == labels).float()
    wanted = wanted / wanted.sum(1, keepdim=True)
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2


def soften(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Blurs each of ``[n 3 H W]`` by its own share of up to ``share`` and adds a little noise."""
    n = len(pixels)
    amount = torch.rand(n, 1, 1, 1, generator=generator) * share
    amount = amount * (torch.rand(n, 1, 1, 1, generator=generator) < 0.5)  # half of them stay sharp
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    noise = torch.randn(pixels.shape, generator=generator) * 0.1 * amount
    return pixels + amount * (blurred - pixels) + noise


def make_model(config: EncoderConfig, tokenizer: CLIPTokenizer, pixels: int) -> CLIPModel:
    """An untrained CLIPModel for images of ``pixels`` x ``pixels``."""
    text, vision = config.text, config.vision
    return CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": text.width,
                "intermediate_size": 4 * text.width,
                "num_hidden_layers": text.layers,
                "num_attention_heads": text.heads,
                "max_position_embeddings": text.length,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
                "projection_dim": config.embedding,
            },
            vision_config={
                "hidden_size": vision.width,
                "intermediate_size": 4 * vision.width,
                "num_hidden_layers": vision.layers,
                "num_attention_heads": vision.heads,
                "image_size": pixels,
                "patch_size": vision.patch,
                "projection_dim": config.embedding,
            },
            projection_dim=config.embedding,
            subject_width=config.subject_width,
        )
    )


@torch.no_grad()
def watch(model: CLIPModel, probes: Probes, sets: Sets, subjects: int = 100) -> dict[str, float]:
    """Shares right on sets that are not trained on: the subject's retrieval among ``subjects`` (the first image
    asked for, the others of each set the gallery), and each probe's."""
    firsts = list(dict.fromkeys(sets.subjects))[:subjects]
    chosen = [sets.subjects.index(name) for name in firsts]
    n = sets.images.shape[1]
    seen = [see(model, part) for part in sets.pixels(chosen).split(128)]
    vectors, embedding = (torch.cat([part[i] for part in seen]) for i in (0, 1))
    unit = F.normalize(embedding[:, : model.config.subject_width], dim=1).view(len(chosen), n, -1)
    similarity = torch.einsum("q d, s g d -> q s g", unit[:, 0], unit[:, 1:]).mean(2)
    right = {"subject": float((similarity.argmax(1) == torch.arange(len(chosen))).float().mean())}
    for name, logits in probes(vectors).items():
        wanted = [word for i in chosen for word in sets.words[name][i]]
        found = [probes.words[name][i] for i in logits.argmax(1).tolist()]
        right[name] = sum(a == b for a, b in zip(wanted, found, strict=True)) / len(wanted)
    return right


def train(config: EncoderConfig) -> Path:
    """Trains and writes the encoder; returns its folder. The same call goes on after an interruption."""
    out = Path(config.out)
    if (out / "config.json").exists():
        log.info("%s is there already", out)
        return out
    work = out.with_name(out.name + ".training")
    with locked(work):
        sets = Sets(config.data, "train", config.images_per_set, config.sets)
        unseen = Sets(config.data, "heldout", config.images_per_set, config.sets)
        seed_global(config.seed)
        captions = [caption for group in sets.captions for caption in group]
        tokenizer = train_tokenizer(
            captions, TextEncoderConfig(vocabulary=config.text.vocabulary, length=config.text.length)
        )
        model = make_model(config, tokenizer, sets.images.shape[-1])
        words = {name: sorted({word for row in rows for word in row}) for name, rows in sets.words.items()}
        probes = Probes(2 * config.vision.width, words)
        _fit(config, model, probes, tokenizer, sets, unseen, work)
        found = watch(model.eval(), probes, unseen)
        log.info("on held-out subjects: %s", ", ".join(f"{name} {share:.1%}" for name, share in found.items()))
        save(model, tokenizer, probes, out, {"settings": to_dict(config), "on held-out subjects": found})
        shutil.rmtree(work)
    return out


def _fit(
    config: EncoderConfig,
    model: CLIPModel,
    probes: Probes,
    tokenizer: CLIPTokenizer,
    sets: Sets,
    unseen: Sets,
    work: Path,
) -> None:
    parameters = [*model.parameters(), *probes.parameters()]
    optimiser = torch.optim.AdamW(parameters, config.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.steps, pct_start=0.1
    )
    parts = {"model": model, "probes": probes, "optimiser": optimiser, "schedule": schedule}
    start = 0
    if checkpoints.has_begun(work):
        stored = checkpoints.load(checkpoints.newest(work))
        if stored["settings"] != to_dict(config):
            raise ConfigError(f"{work} is of a run with other settings; choose another out=, or remove {work}")
        start = stored["step"]
        for name, part in parts.items():
            part.load_state_dict(stored[name])
    progress = tqdm(range(start, config.steps), desc="encoder", unit="step", dynamic_ncols=True)
    for step in progress:
        chosen = sets.batch(config.seed, step, config.drawings, config.recoloured)
        captions = [caption for i in chosen for caption in sets.captions[i]]
        subjects = [sets.subjects[i] for i in chosen for _ in range(config.images_per_set)]
        pixels = soften(sets.pixels(chosen), config.softness, keyed_generator(config.seed, "soften", step))
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            vectors, embedding = see(model, pixels)
            texts = describe(model, tokenise(tokenizer, captions))
        by_subject = subject_loss(embedding[:, : config.subject_width], subjects, config.temperature)
        by_text = text_loss(embedding, texts, captions, model.logit_scale)
        by_probes = torch.zeros(())
        for name, logits in probes(vectors).items():
            numbers = {word: i for i, word in enumerate(probes.words[name])}
            wanted = torch.tensor([numbers[word] for i in chosen for word in sets.words[name][i]])
            by_probes = by_probes + F.cross_entropy(logits, wanted)
        loss = by_subject + config.text_weight * by_text + config.probe_weight * by_probes
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 10 == 0:
            progress.set_postfix_str(f"subject {by_subject:.2f} text {by_text:.2f} probes {by_probes:.2f}")
        if (step + 1) % config.checkpoint_every_steps == 0 or step + 1 == config.steps:
            state = {name: part.state_dict() for name, part in parts.items()}
            path = checkpoints.place(work, "step", step + 1)
            path.parent.mkdir(exist_ok=True)
            checkpoints.save({"settings": to_dict(config), "step": step + 1, **state}, path, {"step": step + 1})
            checkpoints.thin(work, "step", step + 1, keep=2)
            found = watch(model.eval(), probes, unseen)
            model.train()
            log.info("step %d: %s", step + 1, ", ".join(f"{name} {share:.1%}" for name, share in found.items()))


def save(model: CLIPModel, tokenizer: CLIPTokenizer, probes: Probes, out: Path, record: dict) -> None:
    """The folder, by one rename: CLIPModel (weights in half precision), processor, probes, ``training.json``."""
    half = {name: value.half() for name, value in model.state_dict().items()}
    size = model.config.vision_config.image_size
    processor = CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as temporary:
        temporary.mkdir()
        model.save_pretrained(temporary, state_dict=half)
        CLIPProcessor(processor, tokenizer).save_pretrained(temporary)
        probes.save(temporary / PROBES)
        (temporary / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: ``--config FILE key=value ...``. Returns the exit code."""
    parser = make_parser()

    def work() -> None:
        if (config := of_command(EncoderConfig, parser.parse_args(argv))) is not None:
            logging.basicConfig(level=logging.INFO, format="%(message)s")
            log.info("encoder: %s", train(config))

    return exit_code("encoder", work, "; the same command goes on", "fewer sets or drawings need less")


if __name__ == "__main__":
    sys.exit(main())
