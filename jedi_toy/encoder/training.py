"""Training the encoder: sets in memory, three losses, one loop."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from jedi.data import SetDataset, SetIndex
from jedi.io.config import ConfigError, to_dict
from jedi.io.files import locked
from jedi.rng import keyed_generator, seed_global
from jedi_toy.encoder.config import EncoderConfig
from jedi_toy.encoder.network import Probes, describe, save, see, tokenise
from jedi_toy.fit import LoopCheckpoints, fit
from jedi_toy.tiny_base.text_encoder import text_settings, train_tokenizer

log = logging.getLogger(__name__)


class Sets:
    """Training sets in memory: images as bytes ``[s n 3 H W]``, captions, and each image's words."""

    def __init__(self, data: str, split: str, n: int, most: int) -> None:
        index = SetIndex.read(data, split)
        sets = SetDataset(index)
        chosen = [i for i, record in enumerate(index.sets) if record.n >= n][:most]
        if not chosen:
            raise ConfigError(f"{data}/{split}: no set of {n} images or more; images_per_set says how many")
        records = [sets.record(i) for i in tqdm(chosen, desc=f"{split} records", unit="set", dynamic_ncols=True)]
        pixels = (
            sets.images(i, range(n)) for i in tqdm(chosen, desc=f"{split} images", unit="set", dynamic_ncols=True)
        )
        self.images = torch.stack([((x + 1) * 127.5).round().byte() for x in pixels])
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
            text_config={**text_settings(text, tokenizer), "projection_dim": config.embedding},
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
    """Trains and writes the encoder; returns its folder. The same call resumes after an interruption."""
    out = Path(config.out)
    if (out / "config.json").exists():
        log.info("%s is there already", out)
        return out
    work = out.with_name(out.name + ".training")
    with locked(work):
        sets = Sets(config.data, "train", config.images_per_set, config.sets)
        unseen = Sets(config.data, "heldout", config.images_per_set, config.sets)
        seed_global(config.seed)
        tokenizer = train_tokenizer((caption for group in sets.captions for caption in group), config.text)
        model = make_model(config, tokenizer, sets.images.shape[-1])
        words = {name: sorted({word for row in rows for word in row}) for name, rows in sets.words.items()}
        networks = {"model": model, "probes": Probes(2 * config.vision.width, words)}

        say = lambda found: ", ".join(f"{name} {share:.1%}" for name, share in found.items())

        def evaluate() -> str:
            found = watch(model.eval(), networks["probes"], unseen)
            model.train()
            return say(found)

        saving = LoopCheckpoints(work, config.checkpoint_every, to_dict(config), evaluate)
        loss = lambda step: step_loss(config, **networks, tokenizer=tokenizer, sets=sets, step=step)
        kept = {"beta2": 0.98, "weight_decay": 0.05, "warmup": 0.1, "saving": saving}
        fit("encoder", networks, loss, config.steps, config.learning_rate, **kept)
        found = watch(model.eval(), networks["probes"], unseen)
        log.info("on held-out subjects: %s", say(found))
        save(model, tokenizer, networks["probes"], out, {"settings": to_dict(config), "on held-out subjects": found})
        shutil.rmtree(work)
    return out


def step_loss(
    config: EncoderConfig, model: CLIPModel, probes: Probes, tokenizer: CLIPTokenizer, sets: Sets, step: int
) -> tuple[Tensor, str]:
    """The loss of a training step, and its three parts in words."""
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
    return loss, f"subject {by_subject:.2f} text {by_text:.2f} probes {by_probes:.2f}"
