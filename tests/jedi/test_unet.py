"""JointUNet: the properties of docs/method.md §8 at the level of one network call."""

import copy

import pytest
import torch

from jedi.conditioning import network_input
from jedi.text import EncodedText
from jedi.unet import JointUNet

B, N, K, C, S, L, D = 2, 4, 2, 4, 8, 6, 32


@pytest.fixture
def base(tiny_components):
    return tiny_components["unet"].eval()


@pytest.fixture
def joint(base):
    """A joint UNet whose new input channels are not zero, as after training."""
    unet = JointUNet.from_base(copy.deepcopy(base)).eval()
    with torch.no_grad():
        unet.unet.conv_in.weight.normal_(std=0.2)
    return unet


@pytest.fixture
def inputs():
    """sample [b n 2c+1 h w] whose first K images are given, timestep [b], text [b n l d]."""
    latents, mask = torch.randn(B, N, C, S, S), torch.ones(B, N, 1, S, S)
    mask[:, :K] = 0
    return network_input(latents, mask, latents), torch.tensor([500, 20]), EncodedText(torch.randn(B, N, L, D))


@torch.no_grad()
def test_property_1_at_initialisation_the_prediction_is_the_bases(base):
    joint = JointUNet.from_base(copy.deepcopy(base)).eval()
    latents, text, t = torch.randn(B, 1, C, S, S), torch.randn(B, 1, L, D), torch.tensor([700, 3])
    expected = base(latents[:, 0], t, text[:, 0]).sample
    for mask in (torch.ones(B, 1, 1, S, S), torch.zeros(B, 1, 1, S, S)):
        for mode in ("mutual", "one_way"):
            out = joint(network_input(latents, mask, latents), t, EncodedText(text), 0, mode)
            torch.testing.assert_close(out[:, 0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["mutual", "one_way"])
def test_property_2_order_does_not_matter_and_sets_do_not_mix(joint, inputs, mode):
    sample, t, text = inputs
    out = joint(sample, t, text, K, mode)
    for order in ([1, 0, 2, 3], [0, 1, 3, 2]):
        swapped = joint(sample[:, order], t, text[:, order], K, mode)
        torch.testing.assert_close(swapped[:, K:], out[:, order][:, K:], rtol=1e-4, atol=1e-5)
    alone = joint(sample[:1], t[:1], text[:1], K, mode)
    torch.testing.assert_close(alone, out[:1], rtol=1e-4, atol=1e-5)
    other = sample.clone()
    other[:, :K] += 1
    assert (joint(other, t, text, K, mode)[:, K:] - out[:, K:]).abs().max() > 1e-3  # the references are looked at


@torch.no_grad()
def test_property_3_copies_stay_copies(joint):
    image, text = torch.randn(B, 1, C, S, S), EncodedText(torch.randn(B, 1, L, D))
    t, mask = torch.tensor([100, 900]), torch.ones(B, 1, 1, S, S)
    single = joint(network_input(image, mask, image), t, text, 0, "mutual")
    copies = joint(
        network_input(image, mask, image).repeat(1, 3, 1, 1, 1),
        t,
        text.map(lambda x: x.repeat(1, 3, 1, 1)),
        0,
        "mutual",
    )
    torch.testing.assert_close(copies, single.expand_as(copies), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_property_4_the_cache_changes_nothing(joint, inputs):
    sample, t, text = inputs
    out = joint(sample, t, text, K, "one_way")
    cache = joint.encode_references(sample[:, :K], text[:, :K])
    torch.testing.assert_close(joint(sample[:, K:], t, text[:, K:], cache=cache), out[:, K:], rtol=1e-4, atol=1e-5)
    one = joint.encode_references(sample[:1, :K], text[:1, :K])  # of one set, for two
    same = torch.cat([sample[:1, :K].expand(B, -1, -1, -1, -1), sample[:, K:]], dim=1)
    same_text = EncodedText.cat([text[:1, :K].expand(B, K), text[:, K:]], dim=1)
    torch.testing.assert_close(
        joint(sample[:, K:], t, text[:, K:], cache=one), joint(same, t, same_text, K)[:, K:], rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_property_4_references_do_not_move_with_targets_or_time(joint, inputs):
    sample, t, text = inputs
    out = joint(sample, t, text, K, "one_way")
    moved = sample.clone()
    moved[:, K:] = torch.randn_like(moved[:, K:])
    torch.testing.assert_close(joint(moved, t + 50, text, K, "one_way")[:, :K], out[:, :K], rtol=1e-4, atol=1e-5)
    assert (joint(moved, t, text, K, "mutual")[:, :K] - joint(sample, t, text, K, "mutual")[:, :K]).abs().max() > 1e-3


@torch.no_grad()
def test_inpainting_base_is_taken_as_it_is(base):
    grown = JointUNet.from_base(copy.deepcopy(base)).unet
    with torch.no_grad():
        grown.conv_in.weight.normal_()
    weight = grown.conv_in.weight.clone()
    assert torch.equal(JointUNet.from_base(grown).unet.conv_in.weight, weight)
    with pytest.raises(ValueError, match="9 input channels.*this one takes 4.*from_base"):
        JointUNet(base)


@torch.no_grad()
def test_on_disk_it_is_a_stock_unet(joint, inputs, tmp_path):
    from diffusers import UNet2DConditionModel

    joint.unet.save_pretrained(tmp_path)
    again = JointUNet(UNet2DConditionModel.from_pretrained(tmp_path))
    sample, t, text = inputs
    assert torch.equal(again(sample, t, text, K), joint(sample, t, text, K))


def test_gradient_checkpointing_gives_the_same_gradients(joint, inputs):
    sample, t, text = inputs

    def gradient():
        joint.zero_grad()
        joint(sample, t, text, K)[:, K:].square().mean().backward()
        return joint.unet.conv_in.weight.grad.clone()

    joint.train()
    plain = gradient()
    joint.unet.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient(), plain, rtol=1e-4, atol=1e-6)


def test_bad_arguments_are_named(joint, inputs):
    sample, t, text = inputs
    with pytest.raises(ValueError, match="num_references must be 0 to n = 4, got 5"):
        joint(sample, t, text, 5)
    cache = joint.encode_references(sample[:, :K], text[:, :K])
    with pytest.raises(ValueError, match="mode 'one_way'"):
        joint(sample[:, K:], t, text[:, K:], mode="mutual", cache=cache)
    with pytest.raises(ValueError, match="attention mode 'one-way': did you mean 'one_way'"):
        joint(sample, t, text, K, "one-way")
