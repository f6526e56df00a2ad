"""
Cross-entropy of logits and its gradient by them, a slice of tokens at a time.

    loss, gradient = as_written(logits.float(), targets)
    loss = in_room(scores, targets, memory, True)      # the same bits, the gradient in the scores' place
    loss = one_pass()(logits, targets)       # compiled; the gradient takes the logits' place

torch's own log-softmax, loss and the backwards of both read and write a matrix as wide as the vocabulary
some ten times. Compiled as one function it is read twice and written once, and `--compile` is what asks
for that: a compiler takes time to load, and on a CPU needs one of C++.

N: tokens of a slice, V: vocabulary
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from instruct_core.data.batches import IGNORED
from instruct_core.train.compiler import HOW

SUM = 2  # how torch's own functions reduce a loss: Reduction.h


def as_written(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """
    Return the sum of the cross-entropies, and its gradient by the scores. (), (N, V)

    Args:
        scores: Logits in float32. (N, V)
        targets: Ids, or IGNORED. (N,)
    """
    with torch.enable_grad():
        leaf = scores.detach().requires_grad_()
        loss = F.cross_entropy(leaf, targets, ignore_index=IGNORED, reduction="sum")
        [gradient] = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


class Room:
    """
    Memory for a slice's logits and what is made of them on a CPU, taken once and kept.

    malloc puts small things where such a buffer was, and takes the next one from the system: a rank held
    the room of ten of them, and no estimate of its memory held.
    """

    def __init__(self) -> None:
        self._kept = torch.empty(0)

    def of(self, rows: int, words: int) -> tuple[Tensor, Tensor]:
        """Return two buffers in float32 whose content may be anything. (N, V) each"""
        size = 2 * rows * words
        if len(self._kept) < size:
            self._kept = torch.empty(0)  # freed before the new one is taken
            self._kept = torch.empty(size)
        first, second = self._kept[:size].view(2, rows, words)
        return first, second


def in_room(scores: Tensor, targets: Tensor, log_probabilities: Tensor, needs_grad: bool) -> Tensor:
    """
    Return the loss of `as_written` and put its gradient in the place of the scores, both to the bit.

    Args:
        scores: Logits in float32. (N, V)
        targets: Ids, or IGNORED. (N,)
        log_probabilities: Memory of the scores' shape.
        needs_grad: Else the scores stay.
    """
    aten = torch.ops.aten
    aten._log_softmax.out(scores, 1, False, out=log_probabilities)
    given = (log_probabilities, targets, None, SUM, IGNORED)
    loss: Tensor
    loss, weight = aten.nll_loss_forward(*given)
    if needs_grad:
        one = torch.ones_like(loss)
        aten.nll_loss_backward.grad_input(one, *given, weight, grad_input=scores)
        kept = (scores, log_probabilities, 1, scores.dtype)
        aten._log_softmax_backward_data.out(*kept, out=scores)
    return loss


@functools.cache
def one_pass() -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """
    Return what turns logits of any precision into the gradient, in place, and returns the loss.

    It is compiled for the one shape that slices have.
    """
    return torch.compile(in_place, fullgraph=True, **HOW)


def in_place(logits: Tensor, targets: Tensor, factor: Tensor | None = None) -> Tensor:
    """Do what `one_pass` compiles; the gradient is that of the loss times a factor. (N, V), (N,), ()"""
    counts = targets != IGNORED
    scores = logits.float()
    log_sums = scores.logsumexp(1, keepdim=True)
    places = torch.where(counts, targets, 0)[:, None]
    losses = (log_sums - scores.gather(1, places)).squeeze(1)
    words = torch.arange(logits.shape[1], device=logits.device)
    gradient = torch.exp(scores - log_sums) - (words == places).float()
    if factor is not None:
        gradient = gradient * factor
    # Rows that do not count may hold anything: 0 times that would not do.
    logits.copy_(torch.where(counts[:, None], gradient, 0.0))
    return torch.where(counts, losses, 0.0).sum()
