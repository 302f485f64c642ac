"""The idea of JeDi: self-attention coupled across the images of a set.

A stock UNet sees each image on its own: a self-attention layer gets ``[(b n) l d]`` and every image attends to its own
``l`` tokens. JeDi (arXiv 2407.06187) lets every image of a set attend to the tokens of all ``n`` images of that set. No
weight is added; only what the queries may look at changes.

Three modes, one set of weights (docs/method.md §3: `mutual` is the paper's, the others are not)::

                     references attend to      targets attend to         references are shown
    mutual           references + targets      references + targets      noisy, and given clean
    one_way          references                references + targets      clean
    reference_only   references                references + targets      noisy

`reference_only` needs no training. In `one_way` the references depend on neither the targets nor the timestep, so
their keys and values can be computed once and reused at every step, for every prompt and every batch: that is the
:class:`ReferenceCache`.

A mode is an :class:`AttentionMode`; an extension registers its own in ``ATTENTION_MODES``.

Letters: ``b`` sets, ``n`` images a set, ``k`` of them references (they come first), ``l`` tokens an image, ``h`` heads,
``d`` channels (a head's channels, where ``h`` stands beside it).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from jedi.errors import InputError
from jedi.io.registry import Registry

ATTENTION_MODES: Registry[AttentionMode] = Registry("attention mode")
ATTENTION_BACKENDS: Registry[Callable] = Registry("attention back end")
UNTRAINED_MODES = ("reference_only",)
"""What a model can do that was not trained on sets."""


@dataclass(frozen=True)
class AttentionMode:
    """Who attends to whom in a set, and what that means for the references."""

    attend: Callable[[Tensor, Tensor, Tensor, int, Callable], Tensor]
    """``attend(query, key, value, k, kernel)``: ``key`` and ``value`` ``[b n h l d]`` of all images of the set, the
    first ``k`` being references, and ``query [b q h l d]`` of its last ``q`` -> ``[b q h l d]``. ``q`` is ``n``, or
    ``n - k`` where the references come from a cache. ``kernel`` is a back end: plain attention of ``[b h l d]``."""
    clean_references: bool = False
    """References are shown without noise, at timestep 0; otherwise at the noise level of the targets."""
    cacheable: bool = False
    """References attend to no target, so that their keys and values can be computed once. They are clean then."""
    any_size: bool = False
    """A target attends to every token of its set, whatever image it is of: cached references may have another size."""

    given: bool = True
    """References stand in the given channels too, clean (docs/method.md eq. 2); otherwise in the noisy ones alone, as
    an image that is to be generated."""

    def __post_init__(self) -> None:
        if self.cacheable and not self.clean_references:
            raise ValueError("a cacheable attention mode has clean references: others change with the timestep")


def attend_mutual(query: Tensor, key: Tensor, value: Tensor, k: int, kernel: Callable) -> Tensor:
    """Every image attends to every image of its set, whichever are references (docs/method.md eq. 1).

    Shapes as in :attr:`AttentionMode.attend`.
    """
    return unfold_set(kernel(fold_set(query), fold_set(key), fold_set(value)), query.shape[1])


def attend_one_way(query: Tensor, key: Tensor, value: Tensor, k: int, kernel: Callable) -> Tensor:
    """References attend among themselves, targets to all. Two plain calls, no mask."""
    n = key.shape[1]
    no_references, only_references, cached_references = k == 0, k == n, query.shape[1] == n - k
    if no_references or only_references or cached_references:
        return attend_mutual(query, key, value, k, kernel)
    references = attend_mutual(query[:, :k], key[:, :k], value[:, :k], k, kernel)
    targets = attend_mutual(query[:, k:], key, value, k, kernel)
    return torch.cat([references, targets], dim=1)


ATTENTION_MODES.register("mutual")(AttentionMode(attend_mutual))
ATTENTION_MODES.register("one_way")(AttentionMode(attend_one_way, clean_references=True, cacheable=True, any_size=True))
ATTENTION_MODES.register("reference_only")(AttentionMode(attend_one_way, given=False))


def fold_set(x: Tensor) -> Tensor:
    """``[b n h l d] -> [b h (n l) d]``: the images of a set become one sequence."""
    return rearrange(x, "b n h l d -> b h (n l) d")


def unfold_set(x: Tensor, n: int) -> Tensor:
    """``[b h (n l) d] -> [b n h l d]``, the inverse of :func:`fold_set`."""
    return rearrange(x, "b h (n l) d -> b n h l d", n=n)


@ATTENTION_BACKENDS.register("sdpa")
def sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """PyTorch's kernel. ``[b h q d], [b h kv d], [b h kv d] -> [b h q d]``."""
    return F.scaled_dot_product_attention(query, key, value)


@ATTENTION_BACKENDS.register("matmul")
def matmul(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Two matrix products, same shapes as :func:`sdpa`: the scores are kept in memory.

    For training small models on a CPU in bf16, where it takes a third of the time of PyTorch's kernel
    (benchmarks/attention_backends.py).
    """
    b, h = query.shape[:2]
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    scores = torch.bmm(query * query.shape[-1] ** -0.5, key.transpose(1, 2))
    return torch.bmm(scores.softmax(-1), value).unflatten(0, (b, h))


@ATTENTION_BACKENDS.register("xformers")
def xformers(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """xformers' memory-efficient kernel, same shapes as :func:`sdpa`. Wants CUDA; see :func:`check_backend`."""
    from xformers.ops import memory_efficient_attention

    q, k, v = (x.transpose(1, 2).contiguous() for x in (query, key, value))  # xformers' layout is [b q h d]
    return memory_efficient_attention(q, k, v).transpose(1, 2)


def check_backend(name: str, device: torch.device | str) -> None:
    """Runs the back end once on ``device``. Raises ``RuntimeError`` with the cause and the remedy if it cannot run.

    A trial call, since xformers reports itself available even where its compiled part does not load.
    """
    probe = torch.zeros(1, 1, 8, 8, device=device)
    try:
        ATTENTION_BACKENDS.get(name)(probe, probe, probe)
    except (ImportError, RuntimeError, NotImplementedError) as error:
        cause = str(error).strip().split("\n")[0]
        raise RuntimeError(
            f"attention back end {name!r} does not run on {device}: {cause}. Use 'sdpa', or install a build that fits."
        ) from error


@dataclass
class ReferenceCache:
    """Keys and values of encoded references: for each self-attention layer a pair of ``[b h (k l) d]`` tensors.

    Made by ``JediPipeline.encode_references`` / ``JointUNet.encode_references``; read-only afterwards. A cache of one
    set (``b = 1``) serves any number of sets through :meth:`expand`, which copies nothing.
    """

    num_references: int
    """k."""
    layers: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Keys and values, by the layer's name."""
    mode: str = "one_way"
    """The attention mode that they were computed in."""
    size: tuple[int, int] | None = None
    """h w of their latents: only a mode for any size takes it to targets of another one."""

    @property
    def batch(self) -> int:
        """How many sets it holds."""
        return next(iter(self.layers.values()))[0].shape[0]

    @property
    def nbytes(self) -> int:
        """Memory of all keys and values, in bytes."""
        return sum(x.numel() * x.element_size() for pair in self.layers.values() for x in pair)

    def expand(self, batch: int) -> ReferenceCache:
        """The same references for ``batch`` sets. Raises ``ValueError`` unless the cache holds one set or ``batch``."""
        if self.batch == batch:
            return self
        if self.batch != 1:
            raise ValueError(f"a reference cache of {self.batch} sets cannot serve {batch} sets: it needs 1 or {batch}")
        return self._map(lambda x: x.expand(batch, -1, -1, -1))

    def repeat(self, times: int) -> ReferenceCache:
        """The sets, ``times`` over: ``[b ...] -> [(times b) ...]``, in the order guidance stacks its branches."""
        return self if times == 1 else self._map(lambda x: x.repeat(times, 1, 1, 1))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ReferenceCache:
        """A copy on another device or in another dtype."""
        return self._map(lambda x: x.to(device=device, dtype=dtype))

    def _map(self, f: Callable[[Tensor], Tensor]) -> ReferenceCache:
        return replace(self, layers={name: (f(k), f(v)) for name, (k, v) in self.layers.items()})


@dataclass
class JointContext:
    """What one UNet call tells its attention layers. Lives as long as the call, and is passed, never stored.

    ``record`` and ``cache`` exclude one another: a call either fills a cache with its images or reads one in front of
    them.
    """

    num_images: int
    """Images a set in this call; references in ``cache`` are not among them."""
    num_references: int = 0
    """k: how many of them are references."""
    mode: str = "one_way"
    """A name of ``ATTENTION_MODES``."""
    cache: ReferenceCache | None = None
    """Keys and values of references that stand in front of the images of this call."""
    record: ReferenceCache | None = None
    """A cache that the images of this call are written into."""


class JointAttnProcessor:
    """diffusers attention processor for self- and cross-attention. Without a :class:`JointContext` it is the stock one.

    ``name`` identifies the layer in a :class:`ReferenceCache`. Coupling has no parameters: nothing here is saved.
    """

    def __init__(self, name: str, backend: str = "sdpa") -> None:
        self.name = name
        self.kernel = ATTENTION_BACKENDS.get(backend)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        joint: JointContext | None = None,
    ) -> Tensor:
        """``[(b n) l d] -> [(b n) l d]``. ``joint`` arrives through the UNet's ``cross_attention_kwargs``."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        heads = attn.heads
        query, key, value = (
            rearrange(x, "bn l (h d) -> bn h l d", h=heads)
            for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        if encoder_hidden_states is None and joint is not None:
            if attention_mask is not None:
                raise ValueError("attention across a set takes no attention_mask")
            out = self._coupled(query, key, value, joint)
        else:
            # Each image cross-attends to its own prompt (and, uncoupled, to itself alone).
            if attention_mask is None:
                out = self.kernel(query, key, value)
            else:
                mask = attn.prepare_attention_mask(attention_mask, key.shape[2], query.shape[0])
                out = F.scaled_dot_product_attention(
                    query, key, value, mask.view(query.shape[0], heads, -1, key.shape[2])
                )
        out = attn.to_out[0](rearrange(out, "bn h l d -> bn l (h d)"))
        return attn.to_out[1](out) / attn.rescale_output_factor

    def _coupled(self, query: Tensor, key: Tensor, value: Tensor, joint: JointContext) -> Tensor:
        k, n = joint.num_references, joint.num_images
        query, key, value = (rearrange(x, "(b n) h l d -> b n h l d", n=n) for x in (query, key, value))
        if joint.record is not None:
            joint.record.layers[self.name] = (fold_set(key), fold_set(value))
        mode = ATTENTION_MODES.get(joint.mode)
        if joint.cache is not None:
            k, length = joint.cache.num_references, query.shape[3]
            key, value = (
                torch.cat([cached, fold_set(x)], dim=2)
                for cached, x in zip(joint.cache.layers[self.name], (key, value), strict=True)
            )
            if key.shape[2] != (k + n) * length:  # references of another size
                if not mode.any_size:
                    raise ValueError(f"mode {joint.mode!r} takes references of the targets' size only")
                out = unfold_set(self.kernel(fold_set(query), key, value), n)
                return rearrange(out, "b n h l d -> (b n) h l d")
            # Joined as a mode folds them, so that its folding copies nothing.
            key, value = unfold_set(key, k + n), unfold_set(value, k + n)
        out = mode.attend(query, key, value, k, self.kernel)
        return rearrange(out, "b n h l d -> (b n) h l d")


def install_joint_attention(unet: Any, backend: str = "sdpa") -> None:
    """Puts :class:`JointAttnProcessor` on every attention of a diffusers ``UNet2DConditionModel`` of SD-1.x/2.x shape.

    Raises ``InputError`` for attention that is not plain (added key/value projections, query/key norms, group norm,
    residual inside): such layers exist in other model families and would be computed wrongly.
    """
    modules = dict(getattr(unet, "_orig_mod", unet).named_modules())  # torch.compile puts a prefix before the names
    processors = {}
    for name in unet.attn_processors:
        attn = modules[name.removesuffix(".processor")]
        unknown = [
            part
            for part in ("group_norm", "norm_q", "norm_k", "norm_cross", "spatial_norm", "add_k_proj")
            if getattr(attn, part, None) is not None
        ]
        if unknown or attn.residual_connection:
            raise InputError(
                f"{name}: this attention has {', '.join(unknown) or 'a residual inside'}; joint attention is written "
                "for UNets of SD 1.x / 2.x shape (UNet2DConditionModel with Transformer2DModel blocks)"
            )
        processors[name] = JointAttnProcessor(name.removesuffix(".processor"), backend)
    unet.set_attn_processor(processors)


def check_joint_attention(unet: Any) -> None:
    """Raises ``InputError`` if a processor of the UNet would leave its images uncoupled."""
    for name, processor in unet.attn_processors.items():
        if "joint" not in inspect.signature(processor.__call__).parameters:
            raise InputError(
                f"{name}: {type(processor).__name__} does not take `joint`, so no image would see the references. Let "
                "it take that, as jedi.attention.JointAttnProcessor does, or put ours back by "
                "pipe.set_attention_backend('sdpa')"
            )
