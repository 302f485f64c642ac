"""Coupled self-attention: the two modes, the cache, and what a processor must leave as it is."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from jedi.attention import (
    ATTENTION_MODES,
    AttentionMode,
    JointAttnProcessor,
    JointContext,
    ReferenceCache,
    attend_mutual,
    check_backend,
    fold_set,
    install_joint_attention,
    matmul,
    sdpa,
    unfold_set,
)

B, N, H, L, D = 2, 4, 3, 5, 8


@pytest.fixture
def qkv():
    return [torch.randn(B, N, H, L, D) for _ in range(3)]


def masked_attention(query, key, value, allowed):
    """Attention by its formula, with a mask ``[n n]`` of who may look at whom."""
    mask = allowed.repeat_interleave(L, 0).repeat_interleave(L, 1)
    scores = fold_set(query) @ fold_set(key).transpose(-1, -2) / D**0.5
    out = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ fold_set(value)
    return unfold_set(out, N)


@pytest.mark.parametrize("k", range(N + 1))
@pytest.mark.parametrize("mode", ["one_way", "mutual"])
def test_modes_equal_masked_attention(qkv, mode, k):
    allowed = torch.ones(N, N, dtype=torch.bool)
    if mode == "one_way":
        allowed[:k, k:] = False
    out = ATTENTION_MODES.get(mode).attend(*qkv, k, sdpa)
    torch.testing.assert_close(out, masked_attention(*qkv, allowed), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", range(1, N))
def test_cached_references_ask_nothing(qkv, k):
    """The queries of the targets alone give what they give in the whole set."""
    mode = ATTENTION_MODES.get("one_way")
    query, key, value = qkv
    targets = mode.attend(query[:, k:], key, value, k, sdpa)
    torch.testing.assert_close(targets, mode.attend(query, key, value, k, sdpa)[:, k:])


def test_noisy_references_cannot_be_cached():
    with pytest.raises(ValueError, match="a cacheable attention mode has clean references"):
        AttentionMode(attend_mutual, cacheable=True)


def test_fold_puts_images_one_after_the_other():
    x = torch.arange(N).reshape(1, N, 1, 1, 1).expand(B, N, H, L, D)
    assert fold_set(x)[0, 0, :, 0].tolist() == [i for i in range(N) for _ in range(L)]
    assert torch.equal(unfold_set(fold_set(x), N), x)


@pytest.fixture
def layer():
    return Attention(query_dim=16, heads=2, dim_head=8)


def test_without_a_set_it_is_the_stock_processor(layer):
    x, text = torch.randn(3, L, 16), torch.randn(3, 7, 16)
    ours, stock = JointAttnProcessor("a"), AttnProcessor2_0()
    for context in (None, text):
        torch.testing.assert_close(ours(layer, x, context), stock(layer, x, context))


def test_cross_attention_is_never_coupled_and_heeds_its_mask(layer):
    x, text = torch.randn(4, L, 16), torch.randn(4, 7, 16)
    mask = torch.zeros(4, 1, 7)
    mask[:, :, 3:] = -10_000.0
    out = JointAttnProcessor("a")(layer, x, text, mask, joint=JointContext(num_images=2))
    torch.testing.assert_close(out, AttnProcessor2_0()(layer, x, text[:, :3]))


def test_cache_stands_for_the_references(layer):
    """The targets of a set in one call equal the targets behind a recorded cache; the cache is keyed by layer."""
    k, processor = 2, JointAttnProcessor("here")
    x = torch.randn(B * N, L, 16)
    whole = processor(layer, x, joint=JointContext(N, k)).unflatten(0, (B, N))
    by_set = x.unflatten(0, (B, N))
    record = ReferenceCache(k)
    processor(layer, by_set[:, :k].flatten(0, 1), joint=JointContext(k, k, record=record))
    assert list(record.layers) == ["here"] and record.batch == B
    assert record.layers["here"][0].shape == (B, 2, k * L, 8)
    targets = processor(layer, by_set[:, k:].flatten(0, 1), joint=JointContext(N - k, cache=record)).unflatten(
        0, (B, -1)
    )
    torch.testing.assert_close(targets, whole[:, k:], rtol=1e-5, atol=1e-6)


def test_cache_expands_repeats_and_moves():
    pair = torch.randn(1, 2, 6, 4), torch.randn(1, 2, 6, 4)
    cache = ReferenceCache(3, {"a": pair})
    assert cache.expand(5).layers["a"][0].shape[0] == 5
    assert cache.expand(5).layers["a"][0].data_ptr() == pair[0].data_ptr()  # nothing is copied
    two = ReferenceCache(3, {"a": (torch.tensor([1.0, 2]).reshape(2, 1, 1, 1),) * 2})
    assert two.repeat(2).layers["a"][0].flatten().tolist() == [1, 2, 1, 2]
    assert cache.to(dtype=torch.float64).layers["a"][1].dtype == torch.float64
    assert cache.nbytes == 2 * 48 * 4
    with pytest.raises(ValueError, match="2 sets cannot serve 3"):
        two.expand(3)


def test_refuses_attention_of_other_families(tiny_components):
    unet = tiny_components["unet"]
    unet.mid_block.attentions[0].transformer_blocks[0].attn1.norm_q = torch.nn.LayerNorm(8)
    with pytest.raises(ValueError, match="mid_block.*norm_q"):
        install_joint_attention(unet)


def test_matmul_is_attention():
    query, key, value = (torch.randn(2, 3, length, 8) for length in (5, 9, 9))
    torch.testing.assert_close(matmul(query, key, value), sdpa(query, key, value), rtol=1e-5, atol=1e-6)


def test_back_ends():
    check_backend("sdpa", "cpu")
    with pytest.raises(RuntimeError, match="'xformers' does not run on cpu.*sdpa"):
        check_backend("xformers", "cpu")
    with pytest.raises(ValueError, match="did you mean 'sdpa'"):
        check_backend("sdp", "cpu")


@pytest.mark.slow
def test_a_compiled_unet_takes_the_processors_too(tiny_components):
    compiled = torch.compile(tiny_components["unet"], backend="eager")  # compiles at its first call: never, here
    install_joint_attention(compiled)
    processors = tiny_components["unet"].attn_processors
    assert all(f"{x.name}.processor" == name for name, x in processors.items()) and len(processors) > 2


def test_joint_is_stored_nowhere(tiny_components):
    """A context lives as long as its call: after it no processor holds a tensor."""
    unet = tiny_components["unet"]
    install_joint_attention(unet)
    unet(torch.randn(2, 4, 8, 8), 5, torch.randn(2, 3, 32), cross_attention_kwargs={"joint": JointContext(2, 1)})
    for processor in unet.attn_processors.values():
        assert set(vars(processor)) == {"name", "kernel"}
