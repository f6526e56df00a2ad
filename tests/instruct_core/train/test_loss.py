"""The sliced loss is torch's own, and so are its gradients; what is ignored meets no head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from instruct_core.data.batches import IGNORED, MicroBatch
from instruct_core.model.products import ONEDNN, USUAL, products_by
from instruct_core.train import loss as module
from instruct_core.train.loss import on_device, summed_loss
from instruct_core.train.softmax import Room


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


def drawn(seed: int, shape: tuple[int, int], ignored: int) -> tuple[torch.Tensor, ...]:
    """Return hidden states, a head and targets, so many of which are ignored."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(*shape, 16, generator=generator, requires_grad=True)
    head = torch.randn(300, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, 300, shape, generator=generator)
    places = torch.randperm(targets.numel(), generator=generator)[:ignored]
    targets.view(-1)[places] = IGNORED
    return hidden, head, targets


@pytest.mark.parametrize("room", [None, Room()], ids=["", "kept memory"])
@pytest.mark.parametrize("library", [USUAL, ONEDNN])
def test_bits_in_fp32_are_those_of_torchs_own_backward(
    room: Room | None, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with products_by(library):
        check_bits(room, monkeypatch)


def check_bits(room: Room | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SLICE_TOKENS, "cpu", 24)
    hidden, head, targets = drawn(seed=2, shape=(4, 17), ignored=5)
    summed_loss(hidden, head, targets, room=room).backward()
    ours = hidden.grad, head.grad

    rows, total, expected = hidden.detach().flatten(0, 1), torch.zeros(()), torch.zeros_like(head)
    row_grads = []
    for start in range(0, len(rows), 24):
        h = rows[start : start + 24].requires_grad_()
        weight = head.detach().requires_grad_()
        part = targets.flatten()[start : start + 24]
        loss = F.cross_entropy(F.linear(h, weight), part, ignore_index=IGNORED, reduction="sum")
        grad, head_grad = torch.autograd.grad(loss, (h, weight))
        row_grads.append(grad)
        expected += head_grad
        total += loss.detach()

    assert torch.equal(summed_loss(hidden, head, targets, room=room).detach(), total)
    with torch.no_grad():
        assert torch.equal(summed_loss(hidden, head, targets, room=room), total)
    assert ours[0] is not None
    assert torch.equal(ours[0].flatten(0, 1), torch.cat(row_grads))
    assert ours[1] is not None
    assert torch.equal(ours[1], expected)


@pytest.mark.parametrize("ignored", [0, 1, 60, 127])
@pytest.mark.parametrize("is_frozen", [False, True], ids=["", "frozen head"])
@pytest.mark.parametrize("multiple", [1, 64])
def test_leaving_out_what_is_ignored_changes_no_gradient(
    ignored: int, is_frozen: bool, multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.SLICE_TOKENS, "cpu", 24)
    monkeypatch.setitem(module.HEAD_MULTIPLE, "cpu", multiple)
    results = []
    for leave_out in (False, True):
        hidden, head, targets = drawn(seed=3, shape=(2, 64), ignored=ignored)
        head.requires_grad_(not is_frozen)
        learnt = (targets.flatten() != IGNORED).nonzero()[:, 0] if leave_out else None
        loss = summed_loss(hidden, head, targets, learnt)
        loss.backward()
        results.append((loss.detach(), hidden.grad, head.grad))

    for found, expected in zip(*results, strict=True):
        assert (found is None) == (expected is None)
        assert found is None or torch.allclose(found, expected, atol=1e-5)
    hidden_grad = results[1][1]
    assert (hidden_grad.flatten(0, 1)[targets.flatten() == IGNORED] == 0).all()


def test_tokens_that_are_left_out_are_in_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets = drawn(seed=4, shape=(2, 64), ignored=100)
    with torch.no_grad():  # one product with them would be seen in everything
        hidden.view(-1, 16)[targets.flatten() == IGNORED] = float("nan")

    loss = summed_loss(hidden, head, targets, (targets.flatten() != IGNORED).nonzero()[:, 0])
    loss.backward()

    for found in (loss, hidden.grad, head.grad):
        assert found is not None
        assert found.isfinite().all()


@pytest.mark.parametrize(
    ("ignored", "are_left_out"), [(0, False), (15, False), (16, True), (127, True), (128, False)]
)
def test_targets_are_left_out_where_an_eighth_is_ignored_and_not_all(
    ignored: int, are_left_out: bool
) -> None:
    targets = np.full((2, 64), 7, np.int64)
    targets.ravel()[:ignored] = IGNORED
    nothing: Any = np.zeros_like(targets)
    batch = MicroBatch(nothing, targets, nothing, nothing.astype(np.int32))

    inputs = on_device(batch, torch.device("cpu"))

    if not are_left_out:
        assert inputs.learnt is None
    else:
        assert inputs.learnt is not None
        assert inputs.learnt.tolist() == list(range(ignored, 128))
