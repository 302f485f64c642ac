"""Scores: is it the subject, does it follow the prompt, is it a copy?

Pure functions over embeddings (``[n d]`` of length 1, from `jedi.encoders`) or images. Each says the paper, the
preprocessing and the range. Two things make numbers of this field incomparable, so both are named everywhere: the
*aggregation* of identity scores (:data:`AGGREGATIONS`) and the exact encoder (``encoder.name``). And a whole-image
identity score is highest for a copy of the reference: print the oracle and copy rows beside it, and
:func:`copy_score`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from jedi.encoders import (  # noqa: F401 (all that scores need is offered here)
    BlipMatcher,
    EncoderError,
    ImageEncoder,
    Lpips,
    TextImageEncoder,
    load_aesthetic_head,
    load_encoder,
)
from jedi.errors import InputError
from jedi.io.images import Box, to_mask, to_rgb, to_tensor

AGGREGATIONS = ("all_real", "references")
"""Which real images an identity score is the mean over: all of the subject, or the input references only."""
WHITE = (255, 255, 255)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines ``[n m]`` of all pairs of embeddings ``[n d]`` and ``[m d]``; -1 to 1."""
    return nn.functional.normalize(a, dim=-1) @ nn.functional.normalize(b, dim=-1).mT


def drop_identifier(prompt: str, identifier: str) -> str:
    """The prompt without the word that stands for the subject: "a sks dog on a beach" -> "a dog on a beach".

    CLIP-T is measured on the class alone, for the identifier means nothing to CLIP.
    """
    word = rf"(?<!\S){re.escape(identifier)}(?!\w)" if identifier else r"(?!)"
    return re.sub(r"\s+([,.;:!?])", r"\1", " ".join(re.sub(word, " ", prompt).split()))


def clip_t(images: Tensor, texts: Tensor) -> Tensor:
    """CLIP-T: how well each image fits its own prompt.

    *DreamBooth, arXiv 2208.12242*: the plain cosine of CLIP ViT-B/32 embeddings, prompts without the identifier
    (:func:`drop_identifier`). CLIPScore (arXiv 2104.08718) is 2.5 times this, clipped at 0, and torchmetrics' is
    100 times. Range -1 to 1; real photographs with their captions get about 0.3.

    Args:
        images, texts: ``[n d]`` each, row by row.

    Returns:
        ``[n]``
    """
    if images.shape != texts.shape:
        raise ValueError(f"{len(images)} images and {len(texts)} texts: each image needs its own prompt")
    return nn.functional.cosine_similarity(images, texts, dim=-1)


def identity_score(
    images: Tensor, real: Tensor, references: Sequence[int] | None = None, aggregation: str = "all_real"
) -> Tensor:
    """How like its subject each generated image is: the mean cosine to real images of the subject. Range -1 to 1.

    The encoder gives the score its name, and only scores of one encoder compare:

    - CLIP-I: CLIP ViT-B/32, whole images (*Textual Inversion, arXiv 2208.01618; DreamBooth, arXiv 2208.12242*).
      Different photographs of one subject get 0.885 on DreamBench, and whole images of other subjects 0.6 to 0.7: only
      differences between rows of one table mean anything.
    - DINO: DINO ViT-S/16. DreamBooth prefers it: DINO's training does not pull images of one class together. Real
      photographs of one subject get 0.774 on DreamBench.
    - DINOv2 (*arXiv 2304.07193*): not comparable with DINO.
    - MCLIP-I (*JeDi, arXiv 2407.06187*) and MDINO: cut-outs (:func:`cut_subject`) on both sides reward the subject
      alone; neither a copied background nor a fitting one counts. The paper does not say which background was put
      behind the cut-outs, white is ours. Not the "M-DINO" of MS-Diffusion, which is a product over several subjects.

    Args:
        images: ``[n d]`` generated images of one subject.
        real: ``[r d]`` all real images of the subject.
        references: which of ``real`` the model was given; needed for ``aggregation="references"``.
        aggregation: "all_real" (DreamBooth's) or "references" (common where one reference is given; a copy gets 1).

    Returns:
        ``[n]``
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation={aggregation!r}: one of {', '.join(AGGREGATIONS)}")
    if aggregation == "references":
        if not references:
            raise ValueError('aggregation="references" needs the positions of the input references in `real`')
        real = real[list(references)]
    return cosine(images, real).mean(-1)


def cut_subject(
    image: Image.Image, mask: Image.Image, background: tuple[int, int, int] = WHITE, crop: bool = False
) -> Image.Image:
    """The subject (mask white) on a plain background, for the masked scores. A mask of mode "L" is taken as it is.

    With ``crop`` also in a centred square just around it, so that place and size in the image do not count; weaker
    encoders (EfficientNet-Lite0) need that. A mask without a white pixel gives the background alone: an image
    without its subject must score low, not be left out.

    Raises:
        InputError: the mask has another size than the image.
    """
    image, mask = to_rgb(image), mask if mask.mode == "L" else to_mask(mask)
    if image.size != mask.size:
        raise InputError(f"the mask has {mask.size} pixels, its image {image.size}: they must agree")
    cut = Image.composite(image, Image.new("RGB", image.size, background), mask)
    box = mask.point(lambda value: 255 if value > 127 else 0).getbbox()
    if not crop or box is None:
        return cut
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    square = Image.new("RGB", (side, side), background)
    square.paste(cut.crop(box), ((side - right + left) // 2, (side - bottom + top) // 2))
    return square


def blip_itm(matcher: BlipMatcher, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
    """BLIP-ITM: the probability, by BLIP's matching head, that each text describes its image; ``[n]`` in 0 to 1.

    *BLIP, arXiv 2201.12086*; the images' preprocessing is the model's (384 x 384). Prompts without the identifier.
    """
    return matcher.match(images, texts)


class SubjectScores(NamedTuple):
    """A score for each of several subjects that an image should hold."""

    each: Tensor
    """``[s]``, or ``[n s]``."""
    mean: Tensor
    """Over the subjects. An image with one perfect subject and one missing can have a good mean."""
    minimum: Tensor
    """Of the subjects: how well the worst one is there."""


def cp_clip(parts: Tensor, references: Sequence[Tensor]) -> SubjectScores:
    """CP-CLIP: is each of several subjects somewhere in the image, and how like its references?

    *Gen4Gen, arXiv 2402.15504* ("composition-personalisation"): parts of the image are compared with each subject's
    references in CLIP's space. There a detector proposes the parts and a subject that it does not find counts 0;
    here they are the caller's (detector's boxes or, without one, :func:`regions`), the best part counts, and the
    minimum stands beside the mean. Any encoder can be used. Range -1 to 1.

    Args:
        parts: ``[p d]`` embeddings of parts of one image; no parts (nothing was detected) scores 0.
        references: for each of the s subjects ``[r d]``.

    Returns:
        ``each`` ``[s]``; ``mean`` and ``minimum`` are scalars.
    """
    if not len(references):
        raise ValueError("cp_clip needs the references of at least one subject")
    zero = torch.zeros(())
    each = torch.stack([cosine(parts, x).mean(-1).amax() if len(parts) else zero for x in references])
    return SubjectScores(each, each.mean(), each.amin())


def ti_clip(images: Tensor, texts: Tensor) -> SubjectScores:
    """TI-CLIP: does the whole image fit the text, and each of its parts?

    *Gen4Gen, arXiv 2402.15504* ("text-image alignment"): CLIP's cosine of the whole image and the text. With one text
    (the prompt) an image it is :func:`clip_t`; with several ("a fox", "a hat", "a beach") ``minimum`` finds what
    was left out. Plain cosine, -1 to 1.

    Args:
        images: ``[n d]``.
        texts: ``[n t d]``, t texts for each image.

    Returns:
        ``each`` ``[n t]``; ``mean`` and ``minimum`` ``[n]``.
    """
    if texts.dim() != 3 or len(texts) != len(images):
        raise ValueError(f"texts {tuple(texts.shape)}: expected [n t d] with n = {len(images)} images")
    each = nn.functional.cosine_similarity(images[:, None], texts, dim=-1)
    return SubjectScores(each, each.mean(-1), each.amin(-1))


def regions(image: Image.Image, sides: Sequence[float] = (1.0, 0.6, 0.4), steps: int = 3) -> list[Image.Image]:
    """Square-ish windows that stand in for a detector: for each side (share of the image) ``steps`` x ``steps``.

    The whole image is one window. With the defaults 19.
    """
    image = to_rgb(image)
    boxes: dict[Box, None] = {}
    for side in sides:
        width, height = (max(1, round(x * side)) for x in image.size)
        for row in range(steps):
            for column in range(steps):
                left, top = (
                    round((whole - part) * k / max(steps - 1, 1))
                    for whole, part, k in zip(image.size, (width, height), (column, row), strict=True)
                )
                boxes[left, top, left + width, top + height] = None
    return [image.crop(box) for box in boxes]


def diversity(embeddings: Tensor) -> Tensor:
    """How different the images of one prompt are: the mean of 1 - cosine over their pairs; 0 (all alike) to 2.

    Args:
        embeddings: ``[n d]`` of any encoder, n at least 2.
    """
    first, second = _pairs(len(embeddings))
    return 1 - nn.functional.cosine_similarity(embeddings[first], embeddings[second], dim=-1).mean()


def lpips_diversity(images: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The mean perceptual distance over the pairs of images of one prompt; 0 (all alike) upwards, about 0.7 at most.

    *DreamBooth, arXiv 2208.12242 (DIV)*, with LPIPS (*arXiv 1801.03924*).

    Args:
        images: ``[n 3 H W]`` in -1 to 1, n at least 2.
        distance: `Lpips`, or another function of two ``[m 3 H W]`` to ``[m]``.
    """
    first, second = _pairs(len(images))
    return distance(images[first], images[second]).mean()


def _pairs(n: int) -> Tensor:
    if n < 2:
        raise ValueError(f"diversity needs at least two images of a prompt, got {n}")
    return torch.combinations(torch.arange(n)).mT


def aesthetic(embeddings: Tensor, head: nn.Module) -> Tensor:
    """LAION's aesthetic score ``[n]`` of normalised CLIP ViT-L/14 embeddings ``[n 768]``; about 1 to 10.

    *LAION-Aesthetics* (Schuhmann 2022; the head from :func:`load_aesthetic_head`). SynCD drops sets under 6.
    """
    return head(nn.functional.normalize(embeddings, dim=-1)).squeeze(-1)


def retrieval_accuracy(queries: Tensor, gallery: Tensor, labels: Tensor | Sequence[int]) -> Tensor:
    """Whether each query is most like its own subject among s: 1 or 0 a query, so that intervals can be made.

    A subject's likeness is the mean cosine to its g renders. Chance is 1 / s; ties count as wrong, so that a
    constant embedding gets 0 and not luck.

    Args:
        queries: ``[q d]``.
        gallery: ``[s g d]``, g images of each of s subjects.
        labels: ``[q]``, each query's subject, 0 to s-1.

    Returns:
        ``[q]``, float32; its mean is the accuracy.
    """
    labels = torch.as_tensor(labels)
    s = len(gallery)
    if gallery.dim() != 3 or labels.shape != (len(queries),):
        raise ValueError(f"gallery {tuple(gallery.shape)} must be [s g d], labels {tuple(labels.shape)} [q]")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < s:
        raise ValueError(f"labels run from {int(labels.min())} to {int(labels.max())}, the gallery has {s} subjects")
    scores = cosine(queries, gallery.flatten(0, 1)).unflatten(1, gallery.shape[:2]).mean(-1)
    own = scores.gather(1, labels[:, None])
    return ((scores >= own).sum(1) == 1).float()


COPY_SIDE, COPY_SHIFT, COPY_BLUR = 32, 3, 1.5
"""Images are compared at this many pixels, moved by up to so many, and split by a Gaussian of this deviation."""
NEAR_COPY = 0.75
"""A copy score above this is a near-duplicate."""


def copy_score(images: Sequence[Image.Image], references: Sequence[Image.Image]) -> Tensor:
    """How nearly each image *is* one of the references: 1 for the same pixels, about 0 for another scene.

    Ours, for the identity scores above are highest for a copy. A similarity of images, not of subjects: both are
    shrunk to 32 x 32 RGB and split into a blurred image (the layout and its colours) and what the blur takes away
    (the details). Each band is compared by Lin's concordance, 2 cov(x, y) / (var x + var y + (mean x - mean y)^2),
    which is 1 for equal values only, and the *smaller* of the two counts: the same horizon is no copy, nor is the same
    drawing before another background. The best of all shifts by up to 9 % of the side, of the mirror image, and of the
    references is taken; negative values become 0.

    Seen on DreamBench's photographs (30 subjects): JPEG of quality 30, shifts by 6 %, mirroring, noise and the coding
    of our 64-pixel autoencoder leave at least 0.79; other photographs of the *same* subject have a median of 0.12, a
    95 % quantile of 0.33 and at most 0.64; other subjects at most 0.15. Not all copies are found that are turned (by
    3 degrees: 0.64 to 0.9), zoomed (a crop of 95 %: 0.6 to 0.9; of 85 %: 0.3) or much darker (by 20 %: 0.3 to 0.9).
    Scenes that really are alike (a drawing in one pose before plain backgrounds) score high too, so compare with the
    oracle's row. Range 0 to 1.

    Args:
        images: n images of any size (squeezed to squares alike).
        references: those that the model was given, at least one.

    Returns:
        ``[n]``
    """
    if not len(images) or not len(references):
        raise ValueError(f"{len(images)} images and {len(references)} references: copy_score needs both")
    m = COPY_SHIFT
    ours, theirs = _bands(images), _bands(references)
    inner = ours[..., m:-m, m:-m]
    side = inner.shape[-1]
    best = torch.zeros(len(ours), len(theirs), dtype=torch.float64)
    for other in (theirs, theirs.flip(-1)):
        for window in other.unfold(-2, side, 1).unfold(-2, side, 1).flatten(3, 4).unbind(3):
            best = torch.maximum(best, _concordance(inner, window).amin(-1))
    return best.amax(1).float()


def _bands(images: Sequence[Image.Image]) -> Tensor:
    """``[n 2 3 32 32]``: the blurred images, and what the blur took away."""
    side, radius = (COPY_SIDE, COPY_SIDE), 4
    pixels = to_tensor([to_rgb(x).resize(side, Image.Resampling.BOX) for x in images])
    kernel = torch.exp(-torch.arange(-radius, radius + 1.0).square() / (2 * COPY_BLUR**2))
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    padded = nn.functional.pad(pixels, [radius] * 4, mode="replicate")
    blurred = nn.functional.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None]).view_as(pixels)
    return torch.stack([blurred, pixels - blurred], 1)


def _concordance(a: Tensor, b: Tensor) -> Tensor:
    """Lin's concordance correlation (*Biometrics 45, 1989*) of ``[n k ...]`` and ``[m k ...]`` -> ``[n m k]``."""
    a, b = a.flatten(2).double(), b.flatten(2).double()
    mean_a, mean_b = a.mean(-1, keepdim=True), b.mean(-1, keepdim=True)
    covariance = torch.einsum("nkd,mkd->nmk", a - mean_a, b - mean_b) / a.shape[-1]
    variances = a.var(-1, unbiased=False)[:, None] + b.var(-1, unbiased=False)[None]
    apart = (mean_a[:, None] - mean_b[None]).squeeze(-1).square()
    # Where nothing varies in either, equal means are agreement: two plain images of one colour are copies.
    return (2 * covariance + 1e-6) / (variances + apart + 1e-6)
