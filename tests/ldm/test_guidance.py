"""Guidance dropout and its inverse, against their definitions."""

import torch

from ldm.guidance import build_context, draw_drop, guide


def test_drop_bands_are_the_published_ones() -> None:
    r = torch.tensor([0.0, 0.049, 0.05, 0.099, 0.10, 0.149, 0.15, 0.999])
    drop = draw_drop(r)
    assert drop.text.tolist() == [True, True, True, True, False, False, False, False]
    assert drop.image.tolist() == [False, False, True, True, True, True, False, False]


def test_dropped_text_takes_the_vllm_tokens_along() -> None:
    text, null, vllm = torch.randn(2, 77, 8), torch.randn(1, 77, 8), torch.randn(2, 333, 8)
    context = build_context(text, null, vllm, torch.tensor([True, False]))
    assert context.shape == (2, 410, 8)
    assert torch.equal(context[0, :77], null[0])
    assert torch.equal(context[0, 77:], torch.zeros(333, 8))
    assert torch.equal(context[1], torch.cat([text[1], vllm[1]]))


def test_of_instructpix2pix_the_text_alone_is_dropped() -> None:
    text, null = torch.randn(2, 77, 8), torch.randn(1, 77, 8)
    assert build_context(text, null, None).equal(text)
    context = build_context(text, null, None, torch.tensor([True, False]))
    assert context.equal(torch.stack([null[0], text[1]]))


def test_guidance_with_scales_one_is_the_full_prediction() -> None:
    full, image, null = torch.randn(3, 2, 4, 8, 8).double()
    torch.testing.assert_close(guide(full, image, null, 1.0, 1.0), full)
    torch.testing.assert_close(guide(full, image, null, 0.0, 1.0), image)
    torch.testing.assert_close(guide(full, image, null, 0.0, 0.0), null)
    expected = null + 7.5 * (full - image) + 1.5 * (image - null)
    torch.testing.assert_close(guide(full, image, null, 7.5, 1.5), expected)
