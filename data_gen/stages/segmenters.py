"""Models that find an image's subject: `segment.model` names one as KIND:SOURCE.

To add a kind: write a class like `Segmenter`, decorate it with `@SEGMENTERS.register("kind")`, and name its module
under `extensions:` in the configuration (docs/extending.md).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from data_gen.context import Context
from data_gen.models import device_of, load_network
from data_gen.packages import need
from jedi.errors import InputError, first_line
from jedi.io.config import ConfigError
from jedi.io.registry import Registry

log = logging.getLogger(__name__)


class Segmenter(Protocol):
    """Made as `factory(source, settings, context)`: what stands after the colon, and the settings of the section
    `segment`. The model is loaded at the first `find`."""

    uses_model: bool
    """Whether it wants a GPU, or all cores of a process."""
    packages: tuple[str, ...]
    """What must stay at one version for equal masks, besides numpy and Pillow."""

    def find(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[Image.Image]:
        """RGB images and their subjects' names -> masks, mode "L" of the same sizes, 255 where it surely is."""
        ...


SEGMENTERS: Registry[Callable[[str, Any, Context], Segmenter]] = Registry("segmenter")


def make_segmenter(settings: Any, context: Context) -> Segmenter:
    """The configured one. ConfigError: an unknown kind, a source that cannot be right."""
    kind, _, source = settings.model.partition(":")
    try:
        return SEGMENTERS.get(kind)(source, settings, context)
    except InputError as error:
        raise ConfigError(f"segment.model={settings.model}: {error}") from None


@SEGMENTERS.register("border")
class Border:
    """Whatever has another colour than the image's border. For drawings and product photos on plain backgrounds,
    and for tests: it knows no objects, so on a photo of a scene it finds nonsense.

    The border, 2 % of the side wide, is reduced to 4 colours; those on a tenth of it or more are the background's.
    A pixel is the subject's if its RGB distance to all of them is over 36 (of 441). Holes are filled, and what is
    thinner than a 90th of the side goes. Found at 256 pixels, then enlarged.
    """

    uses_model, packages = False, ("scipy",)
    side, rim, colours, distance = 256, 0.02, 4, 36.0

    def __init__(self, source: str, settings: Any, context: Context) -> None:
        if source:
            raise InputError("border has no models to choose from; write segment.model=border")
        need("scipy", "border")

    def find(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[Image.Image]:
        return [self._find(image) for image in images]

    def _find(self, image: Image.Image) -> Image.Image:
        from scipy import ndimage

        small = image.copy()
        small.thumbnail((self.side, self.side), Image.Resampling.BOX)
        pixels = np.asarray(small, dtype=np.float32)
        background = self._background(pixels)
        apart = np.linalg.norm(pixels[:, :, None] - background, axis=-1).min(-1) > self.distance
        found = ndimage.binary_opening(ndimage.binary_fill_holes(apart), np.ones((3, 3)))
        mask = Image.fromarray((255 * found).astype(np.uint8))
        return mask.resize(image.size, Image.Resampling.BILINEAR)

    def _background(self, pixels: np.ndarray) -> np.ndarray:
        """``[k 3]``: the border's main colours."""
        height, width, _ = pixels.shape
        rim = max(1, round(self.rim * max(width, height)))
        edges = [pixels[:rim], pixels[-rim:], pixels[rim:-rim, :rim], pixels[rim:-rim, -rim:]]
        line = Image.fromarray(np.concatenate([edge.reshape(1, -1, 3) for edge in edges], 1).astype(np.uint8))
        reduced = line.quantize(self.colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        palette = np.asarray(reduced.getpalette(), dtype=np.float32).reshape(-1, 3)
        counts = np.bincount(np.asarray(reduced).ravel(), minlength=len(palette))
        return palette[counts >= 0.1 * counts.sum()]


@SEGMENTERS.register("rembg")
class Rembg:
    """A session of rembg: `isnet-general-use`, `birefnet-general`, `u2net`, ... (fetched by rembg when first used), or
    a file that is there already: `/path/model.onnx` (as ISNet is fed) or `u2net=/path/model.onnx` (as that session is).

    rembg stretches what its network says to 0 ... 255 in each image, so it finds something in nearly all of them.
    Sessions that send images to a service are refused.
    """

    uses_model, packages = True, ("rembg", "onnxruntime")

    def __init__(self, source: str, settings: Any, context: Context) -> None:
        for package in ("rembg", "onnxruntime"):
            need(package, "rembg")
        name, _, file = source.rpartition("=")
        if not name and source.endswith(".onnx"):
            name = "dis_custom"
        elif not name:
            name, file = source, ""
        if not name or (file and not Path(file).is_file()):
            raise InputError(f"{file}: no such file" if file else "write rembg:SESSION, as rembg:isnet-general-use")
        self.name, self.file, self.settings, self.context = name, file, settings, context

    def find(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[Image.Image]:
        # A prediction without any contrast is divided by zero and comes out as an empty mask: no subject.
        with np.errstate(divide="ignore", invalid="ignore"):
            return [self._session.predict(image)[0].convert("L") for image in images]

    @cached_property
    def _session(self) -> Any:
        import torch

        threads = torch.get_num_threads()
        from rembg.session_factory import new_session
        from rembg.sessions import sessions

        torch.set_num_threads(threads)  # rembg's numba has set OpenMP's number, which is torch's, to all cores
        key = f"segment.model={self.settings.model}"
        if self.name not in sessions:
            raise ConfigError(f"{key}: rembg has no session {self.name!r}; it has {', '.join(sorted(sessions))}")
        if not sessions[self.name].is_local():
            raise ConfigError(f"{key}: this session sends the images to a service; choose one that runs here")
        try:
            if not self.file:
                return new_session(self.name, providers=self._providers())
            return self._from_file(sessions[self.name])
        except Exception as error:  # pooch, requests, onnxruntime: each raises its own kinds
            raise ConfigError(
                f"{key}: rembg cannot load it ({first_line(error)}); without a network, name the file of a model that "
                f"is there: segment.model=rembg:{self.name}=/path/model.onnx"
            ) from error

    def _from_file(self, session: type) -> Any:
        import onnxruntime

        # rembg takes files of its own folder only, and a custom session asks for the path when it is made.
        class FromFile(session):
            @classmethod
            def download_models(cls, *args: Any, **kwargs: Any) -> str:
                return kwargs["model_path"]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))
        return FromFile(self.name, options, model_path=self.file, providers=self._providers())

    def _providers(self) -> list[Any]:
        import onnxruntime

        device, _, index = device_of(self.context).partition(":")
        if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            gpu = ("CUDAExecutionProvider", {"device_id": index}) if index else "CUDAExecutionProvider"
            return [gpu, "CPUExecutionProvider"]
        if device == "cuda":
            log.warning("segment: rembg runs on the CPU; for the GPU: pip install onnxruntime-gpu")
        return ["CPUExecutionProvider"]


class _Network:
    """A model of transformers, from a folder or the hub."""

    uses_model, packages = True, ("torch", "transformers")
    kind: str

    def __init__(self, source: str, settings: Any, context: Context) -> None:
        if not source:
            raise InputError(f"write {self.kind}:FOLDER_OR_HUB_NAME")
        self.source, self.settings, self.context = source, settings, context

    def _load(self, cls: type) -> Any:
        return load_network(cls, f"segment.model={self.settings.model}", self.source, (self.kind,), self.context)


@SEGMENTERS.register("clipseg")
class ClipSeg(_Network):
    """`CLIPSegForImageSegmentation`, as `CIDAS/clipseg-rd64-refined`, asked for the subject's name. Coarse (352
    pixels), but it knows which of several things is meant. *Lüddecke & Ecker 2022, arXiv 2112.10003.*"""

    kind = "clipseg"

    def find(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[Image.Image]:
        import torch

        model, preprocess, tokenizer, length = self._parts
        tokens = tokenizer(list(names), padding=True, truncation=True, max_length=length, return_tensors="pt")
        inputs = {name: tokens[name].to(model.device) for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            logits = model(pixel_values=preprocess(images).to(model.device), **inputs).logits
        values = (255 * logits.float().sigmoid()).round().byte().cpu().reshape(len(images), *logits.shape[-2:])
        return [
            Image.fromarray(mask.numpy()).resize(image.size, Image.Resampling.BILINEAR)
            for mask, image in zip(values, images, strict=True)
        ]

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any, int]:
        from transformers import CLIPSegForImageSegmentation, ViTImageProcessorPil

        from jedi.encoders import load_processor, load_tokenizer

        model = self._load(CLIPSegForImageSegmentation)
        side = model.config.vision_config.image_size
        imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
        default = ViTImageProcessorPil(size={"height": side, "width": side}, **imagenet)
        return model, load_processor(self.source, default, side), *load_tokenizer(self.source, model.config.text_config)


@SEGMENTERS.register("sam")
class Sam(_Network):
    """`SamModel`, as `facebook/sam-vit-base`, asked what is in the middle (`segment.prompt`); of its three answers the
    one that it expects to be the best. *Kirillov et al. 2023, arXiv 2304.02643.*"""

    kind = "sam"

    def find(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[Image.Image]:
        import torch

        model, processor = self._parts
        inputs = processor(images=list(images), return_tensors="pt", **self._prompt(images))
        sizes, scaled = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        inputs = {name: x.to(model.device, torch.float32) for name, x in inputs.items()}
        with torch.no_grad():
            answer = model(**inputs)
        masks = processor.post_process_masks(answer.pred_masks.cpu(), sizes, scaled, binarize=False)
        best = answer.iou_scores.argmax(-1).flatten().tolist()
        return [
            Image.fromarray((255 * mask[0, k].sigmoid()).round().byte().numpy())
            for mask, k in zip(masks, best, strict=True)
        ]

    def _prompt(self, images: Sequence[Image.Image]) -> dict[str, list]:
        if self.settings.prompt == "point":
            return {"input_points": [[[image.width / 2, image.height / 2]] for image in images]}
        return {"input_boxes": [[[a * side for a in (0.1, 0.9) for side in image.size]] for image in images]}

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import SamImageProcessorPil, SamModel, SamProcessor

        model = self._load(SamModel)
        side = model.config.vision_config.image_size
        sizes = {"size": {"longest_edge": side}, "pad_size": {"height": side, "width": side}}
        try:
            return model, SamProcessor(SamImageProcessorPil.from_pretrained(self.source))
        except OSError:  # a folder without preprocessing: the class's own, for the model's size
            return model, SamProcessor(SamImageProcessorPil(**sizes))
