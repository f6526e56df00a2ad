"""The sliced loss is torch's own, and so are its gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from instruct_core.data.batches import IGNORED
from instruct_core.train import loss as module
from instruct_core.train.loss import summed_loss


@pytest.mark.parametrize(("slice_tokens", "multiple"), [(7, 1), (64, 1), (1000, 1), (24, 64)])
def test_loss_and_gradients_equal_those_of_all_logits_at_once(
    slice_tokens: int, multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.SLICE_TOKENS, "cpu", slice_tokens)
    monkeypatch.setitem(module.HEAD_MULTIPLE, "cpu", multiple)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 32, 16, generator=generator, requires_grad=True)
    head = torch.randn(300, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, 300, (2, 32), generator=generator)
    targets[0, 5:20] = IGNORED

    (summed_loss(hidden, head, targets) * 0.5).backward()

    ours = hidden.grad, head.grad
    hidden.grad = head.grad = None
    expected = F.cross_entropy(
        (hidden @ head.t()).flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    (expected * 0.5).backward()
    assert torch.allclose(summed_loss(hidden, head, targets), expected)
    for found, reference in zip(ours, (hidden.grad, head.grad), strict=True):
        assert found is not None
        assert torch.allclose(found, reference, atol=1e-5)


def test_loss_without_gradients_keeps_none() -> None:
    hidden, head = torch.randn(1, 4, 8), torch.randn(30, 8)

    with torch.no_grad():
        loss = summed_loss(hidden, head, torch.zeros(1, 4, dtype=torch.int64))

    assert not loss.requires_grad


@pytest.mark.parametrize("multiple", [1, 64])
def test_loss_under_autocast_is_that_of_the_rounded_head(
    multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.HEAD_MULTIPLE, "cpu", multiple)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(1, 32, 16, generator=generator)
    head = torch.randn(300, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, 300, (1, 32), generator=generator)

    with torch.autocast("cpu", torch.bfloat16):
        loss = summed_loss(hidden.requires_grad_(), head, targets)
        expected = F.cross_entropy(F.linear(hidden, head)[0].float(), targets[0], reduction="sum")
    loss.backward()

    assert torch.allclose(loss, expected)
    assert head.grad is not None
    assert head.grad.dtype == torch.float32
    assert head.grad.shape == head.shape
