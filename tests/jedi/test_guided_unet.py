"""jedi.guided_unet: which network calls a guided prediction is made of, and what they are told."""

import pytest
import torch

from jedi.conditioning import network_input
from jedi.guided_unet import Conditions, GuidedUNet, References
from jedi.text import EncodedText
from jedi.unet import JointUNet
from tests import tiny
from tests.jedi.sampling import SHAPE, STEPS, close, latents, record_calls


def test_the_cache_gives_what_the_whole_set_gives_in_every_branch(pipe):
    """Property 4 of docs/method.md §8."""
    unet = JointUNet(pipe.unet)
    given, text = torch.randn(3, *SHAPE), EncodedText(torch.randn(2, 2, tiny.TEXT_LENGTH, tiny.TEXT_WIDTH))
    of_references, empty = (EncodedText(torch.randn(p, tiny.TEXT_LENGTH, tiny.TEXT_WIDTH)) for p in (3, 1))
    clean = network_input(given[None], torch.zeros(1, 3, 1, *SHAPE[1:]), given[None])
    x, t = torch.randn(4, *SHAPE), torch.tensor(500)
    with torch.no_grad():
        cache = unet.encode_references(clean, of_references[None])
        denoiser = GuidedUNet(unet, pipe.scheduler, Conditions("one_way", text, empty, References(3, cache)))
        found = denoiser.predict(("none", "refs", "full", "text"), x, t)
        free = torch.ones(2, 2, 1, *SHAPE[1:])
        target = network_input(x.view(2, 2, *SHAPE), free, torch.zeros(2, 2, *SHAPE))
        for name, caption in (("refs", empty.expand(2, 2)), ("full", text)):
            whole = torch.cat([clean.expand(2, -1, -1, -1, -1), target], 1)
            captions = EncodedText.cat([of_references.expand(2, 3), caption], 1)
            assert close(found[name], unet(whole, t.expand(2), captions, 3)[:, 3:].flatten(0, 1), 1e-5)
        for name, caption in (("none", empty.expand(2, 2)), ("text", text)):
            assert close(found[name], unet(target, t.expand(2), caption).flatten(0, 1), 1e-5)
    assert len({round(float(x.sum()), 3) for x in found.values()}) == 4  # the branches differ at all


def test_a_cache_of_several_sets_serves_each_its_own(pipe):
    unet, t = JointUNet(pipe.unet), torch.tensor(500)
    given = torch.randn(2, 1, *SHAPE)
    of_references, text = (EncodedText(torch.randn(2, 1, tiny.TEXT_LENGTH, tiny.TEXT_WIDTH)) for _ in range(2))
    clean = network_input(given, torch.zeros(2, 1, 1, *SHAPE[1:]), given)
    empty = EncodedText(torch.randn(1, tiny.TEXT_LENGTH, tiny.TEXT_WIDTH))
    x = torch.randn(2, *SHAPE)

    @torch.no_grad()
    def predict(sets: slice) -> dict[str, torch.Tensor]:
        references = References(1, unet.encode_references(clean[sets], of_references[sets]))
        conditions = Conditions("one_way", text[sets], empty, references)
        return GuidedUNet(unet, pipe.scheduler, conditions).predict(("refs", "full"), x[sets], t)

    both, second = predict(slice(None)), predict(slice(1, 2))
    for name in both:
        assert close(both[name][1:], second[name], 1e-5)


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """How many sets each network call of the test had."""
    return record_calls(monkeypatch, len)


def test_branches_of_one_set_size_share_a_call_and_scale_1_is_off(pipe, calls):
    latents(pipe, guidance="three_branch", guidance_scale=3.0, image_guidance_scale=2.0)
    assert calls == [1, 2] * STEPS  # e(0,0); e(refs,0) with e(refs,text)
    calls.clear()
    latents(pipe, guidance="three_branch", guidance_scale=1.0, image_guidance_scale=1.0)
    assert calls == [1] * STEPS
    calls.clear()
    latents(pipe, references=None, guidance="three_branch", guidance_scale=3.0, image_guidance_scale=2.0)
    assert calls == [2] * STEPS  # without references: e(0,0) and e(0,text)
    calls.clear()
    latents(pipe, guidance="two_branch", guidance_scale=1.0)
    assert calls == [1] * STEPS  # it has no use for a reference scale


@pytest.mark.slow
def test_intervals(pipe, calls):
    options = {"guidance": "three_branch", "guidance_scale": 3.0, "image_guidance_scale": 2.0}
    options["num_inference_steps"] = 4
    latents(pipe, **options, guidance_interval=(0.5, 1), image_guidance_interval=(0.75, 1))
    assert calls == [1, 1, 1, 2, 1, 2]
    always = latents(pipe, **options)
    assert close(always, latents(pipe, **options, guidance_interval=(0, 1), image_guidance_interval=(0.0, 1.0)), 0)
    no_text = latents(pipe, **options, guidance_interval=(0, 0))
    assert close(no_text, latents(pipe, **options | {"guidance_scale": 1.0}), 0)
