"""The encoder as a network: what it sees in images, and its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from jedi.io.config import ConfigError
from jedi.io.files import atomic
from jedi.io.images import fit_square, to_rgb, to_tensor
from jedi.io.parts import load_network
from jedi.io.ranges import batches

PROBES = "probes.safetensors"


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
                raise ConfigError(f"{folder}: no {name}; an encoder is made by `python -m jedi_toy.encoder`")
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
        parts = [see(self.model, to_tensor(batch).to(self.model.device)) for batch in batches(squares, batch_size)]
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


def save(model: CLIPModel, tokenizer: CLIPTokenizer, probes: Probes, out: Path, record: dict[str, Any]) -> None:
    """The folder, by one rename: CLIPModel (weights in half precision), processor, probes, ``training.json``."""
    half = {name: value.half() for name, value in model.state_dict().items()}
    size = model.config.vision_config.image_size
    half_of_all = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    sides = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    processor = CLIPImageProcessor(**sides, **half_of_all)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as temporary:
        temporary.mkdir()
        model.save_pretrained(temporary, state_dict=half)
        CLIPProcessor(processor, tokenizer).save_pretrained(temporary)
        probes.save(temporary / PROBES)
        (temporary / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
