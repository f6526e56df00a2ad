"""One pass over the logits gives the loss and the gradient of torch's several."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from instruct_core.data.batches import IGNORED
from instruct_core.train.softmax import Room, as_written, in_place, in_room


def drawn(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits as far apart as GPT-2's are, and targets."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(37, 1000, generator=generator) * 8 - 100
    logits[:, 990:] = -torch.inf  # the words that fill up a head
    targets = torch.randint(0, 990, (37,), generator=generator)
    targets[[0, 5, 36]] = IGNORED
    return logits.to(dtype), targets


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_pass_comes_to_what_torch_does(dtype: torch.dtype) -> None:
    logits, targets = drawn(dtype)
    loss, gradient = as_written(logits.float(), targets)

    ours = in_place(logits, targets)

    assert torch.allclose(ours, loss)
    assert torch.allclose(logits, gradient.to(dtype), atol=1e-6 if dtype == torch.float32 else 4e-3)


@pytest.mark.parametrize("broken", [None, float("nan"), float("inf")])
@pytest.mark.parametrize("needs_grad", [True, False])
def test_loss_in_kept_memory_has_the_bits_of_torchs(broken: float | None, needs_grad: bool) -> None:
    logits, targets = drawn(torch.float32)
    if broken is not None:
        logits[7, 3] = broken
    loss, gradient = as_written(logits, targets)
    scores, memory = Room().of(*logits.shape)
    scores.copy_(logits)
    memory.fill_(float("nan"))

    ours = in_room(scores, targets, memory, needs_grad)

    expected = gradient if needs_grad else logits
    assert torch.equal(ours.view(torch.int32), loss.view(torch.int32))
    assert torch.equal(scores.view(torch.int32), expected.view(torch.int32))


def test_room_of_logits_is_taken_once() -> None:
    room = Room()
    first, second = room.of(7, 100)
    first.fill_(1.0)
    second.fill_(2.0)

    again = room.of(5, 100)

    assert again[0].data_ptr() == first.data_ptr()
    assert (first == 1.0).all()


def test_rows_whose_target_is_ignored_may_hold_anything() -> None:
    logits, targets = drawn(torch.float32)
    clean = logits.clone()
    logits[targets == IGNORED] = float("nan")

    loss = in_place(logits, targets)

    expected = F.cross_entropy(clean, targets, ignore_index=IGNORED, reduction="sum")
    assert torch.allclose(loss, expected)
    assert (logits[targets == IGNORED] == 0).all()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_make_neither_loss_nor_gradient_finite(broken: float) -> None:
    logits, targets = drawn(torch.float32)
    logits[7, 3] = broken

    loss = in_place(logits, targets)

    assert not loss.isfinite()
    assert not logits.isfinite().all()
