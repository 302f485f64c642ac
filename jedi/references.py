"""References as a user gives them: checked, cut out, and brought to one size for the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps
from torch import Tensor

from jedi import checks
from jedi.attention import ATTENTION_MODES, ReferenceCache
from jedi.errors import InputError
from jedi.io import images
from jedi.sizes import REFERENCE_RESIZES, Size, own_size


@dataclass
class ReferenceImages:
    """Arguments of a call that are about its references, ``k`` of them."""

    images: Sequence[Image.Image] | None
    """Of any size, mode and aspect."""
    prompts: str | Sequence[str] | None = None
    """One caption for all, or one each; None is the empty caption."""
    masks: Sequence[Image.Image | None] | None = None
    """For each None, or what of it is the subject (white); the rest is hidden."""
    resize: str = "pad"
    """How they are brought to a size: "pad" shows all of an image within the targets' size, its margins continued
    (:func:`jedi.io.images.fit`); "crop" fills the targets' size with the middle of the image; "keep" leaves it its
    aspect, with about as many pixels as the model was trained on, whatever size the targets have."""

    def __len__(self) -> int:
        """k."""
        return len(self.images or ())

    def check(self, mode: str, cache: ReferenceCache | None = None) -> None:
        """Raises ``InputError`` if they do not fit one another, the attention mode, or a cache in their place."""
        checks.check_references(self.images, self.prompts, self.masks, cache, mode)
        checks.check_choice("reference_resize", self.resize, REFERENCE_RESIZES)
        if self.resize == "keep" and not ATTENTION_MODES.get(mode).any_size:
            raise InputError(
                f"reference_resize 'keep' does not go with mode {mode!r}, which takes references of the targets' size: "
                "take 'pad' or 'crop'"
            )

    @property
    def captions(self) -> list[str]:
        """One each."""
        prompts = self.prompts or ""
        return [prompts] * len(self) if isinstance(prompts, str) else list(prompts)

    def pixels(self, size: Size, trained: Size, factor: int) -> Tensor:
        """``[k 3 H W]`` in [-1, 1], float32.

        Args:
            size: height and width of the targets.
            trained: those that the model was trained on.
            factor: of the vae, pixels a latent pixel.

        Raises:
            InputError: "keep", and they differ in aspect: the references of a set go through the network together.
        """
        shown = []
        for image, mask in zip(self.images or (), self.masks or [None] * len(self), strict=True):
            image = images.to_rgb(image)
            shown.append(image if mask is None else images.cut_out(image, images.to_mask(mask)))
        if self.resize == "keep":
            sizes = {own_size(image, trained, factor) for image in shown}
            if len(sizes) > 1:
                found = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
                raise InputError(
                    f"reference_resize 'keep': the references would have several sizes ({found} pixels), and need one; "
                    "give references of one aspect, or take 'pad' or 'crop'"
                )
            size = sizes.pop()
        if self.resize == "pad":
            shown = [images.fit(image, size[1], size[0])[0] for image in shown]
        else:
            shown = [ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS) for image in shown]
        return images.to_tensor(shown)
