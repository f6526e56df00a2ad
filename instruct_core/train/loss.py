"""
Cross-entropy over a whole vocabulary without ever holding all logits.

    model = WithLoss(build(shape))
    model(tokens, targets, positions, row_ids).backward()

For 8 x 1,024 tokens the logits of GPT-2 alone take 1.6 GB, and their gradient as much again. So head and
loss run over a slice of tokens at a time, and each slice's gradient is taken at once; nothing is
computed twice. Where a good part of the targets is ignored, as with `--loss-on response`, their tokens
are left out before. The loss is a sum: the trainer divides by the loss tokens of all ranks, so that
ranks and accumulation give one result.

A GPU's tensor cores want matrices whose sides are multiples of 64, and 50,257 is odd: there such a
head gets rows of zeros with a bias of minus infinity, which no probability and no gradient reaches.

B: micro-batch size, T: seq_len, N: B x T, C: width, V: vocabulary
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from instruct_core.data.batches import IGNORED, MicroBatch, row_starts
from instruct_core.model.attention import RowStarts, row_mask
from instruct_core.model.family import Model
from instruct_core.train.softmax import Room, as_written, in_room, one_pass

# A GPU is quicker with longer ones. Compiled, a slice holds its logits once and not four times.
SLICE_TOKENS = {"cpu": 512, "cuda": 2048}
COMPILED_SLICE_TOKENS = {"cpu": 512, "cuda": 8192}
HEAD_MULTIPLE = {"cpu": 1, "cuda": 64}
# Of all targets, ignored, from which on these are left out before the head's product. With fewer there
# is little to gain, and sums keep the order that they have always had.
SHARE_WORTH_LEAVING_OUT = 1 / 8


class Inputs(NamedTuple):
    """What a forward takes of a micro-batch, on its device."""

    tokens: Tensor  # (B, T)
    targets: Tensor  # ids, or IGNORED. (B, T)
    positions: Tensor  # place of each token in its row. (B, T)
    row_ids: Tensor  # equal where attention may look. (B, T)
    row_starts: Tensor | None = None  # for attention that goes by them, see RowStarts
    learnt: Tensor | None = None  # which of the B x T targets count, where that is worth knowing


class WithLoss(nn.Module):
    """
    A model and its loss as one module, which is what DDP wraps.

    Args:
        model: Compiled or not.
        compiled: Have the loss compiled too.
    """

    def __init__(self, model: Model, compiled: bool = False) -> None:
        super().__init__()
        self.model, self._compiled = model, compiled
        self._room = Room()

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        positions: Tensor,
        row_ids: Tensor,
        row_starts: Tensor | None = None,
        learnt: Tensor | None = None,
        factor: Tensor | None = None,
    ) -> Tensor:
        """Return the summed loss of all targets that count; see Inputs and `summed_loss`."""
        where = where_to_look(self.model, row_ids, row_starts, self._compiled)
        hidden = self.model(tokens, positions, where)
        head = self.model.head_weight
        return summed_loss(hidden, head, targets, learnt, self._compiled, self._room, factor)


def where_to_look(
    model: Model, row_ids: Tensor, row_starts: Tensor | None, compiled: bool = False
) -> Tensor | RowStarts:
    """Return what attention stays in: rows by their starts where it can go by them, else a mask."""
    if row_starts is None or (model.training and model.dropout):
        return row_mask(row_ids)
    longest = row_ids.shape[1]
    if not row_ids.is_cuda:
        # Compiled, every step's rows would be another graph.
        return row_mask(row_ids) if compiled else RowStarts(row_starts, longest)
    if _product_dtype("cuda", model.head_weight.dtype).itemsize > 2 or not RowStarts.suit(
        model.config
    ):
        return row_mask(row_ids)
    from torch._dynamo import mark_dynamic  # takes a second, and is for GPUs

    mark_dynamic(row_starts, 0)  # no step compiles anew because it has other rows
    return RowStarts(row_starts, longest)


def _product_dtype(kind: str, dtype: torch.dtype) -> torch.dtype:
    """Return the type in which products of ``dtype`` are made on a kind of device."""
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype


def summed_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    learnt: Tensor | None = None,
    compiled: bool = False,
    room: Room | None = None,
    factor: Tensor | None = None,
) -> Tensor:
    """
    Return the sum of the cross-entropies of all targets that count, in float32.

    Args:
        hidden: Last hidden states. (B, T, C)
        head: Weight of the output head. (V, C)
        targets: Ids, or IGNORED. (B, T)
        learnt: Places of those that count among the B x T, if the others are to be left out.
        compiled: See softmax.py.
        room: Where a CPU puts the logits, if it does so again and again.
        factor: What the loss is multiplied with before its backward: gradients are made with it already,
            so that none is too small or too large for float16. ()
    """
    loss: Tensor = _SlicedLoss.apply(  # type: ignore[no-untyped-call]  # torch does not type it
        hidden.flatten(0, 1), head, targets.flatten(), learnt, compiled, room, factor
    )
    return loss


class _SlicedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        learnt: Tensor | None,
        compiled: bool,
        room: Room | None,
        factor: Tensor | None,
    ) -> Tensor:
        needs_grad, needs_head_grad = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        slices = _Slices(hidden, head, compiled and needs_grad, room, factor)
        chosen = hidden
        if learnt is not None:
            chosen, targets = hidden.index_select(0, learnt), targets.index_select(0, learnt)
        hidden_grad = torch.empty_like(chosen) if needs_grad else None
        head_grad: Tensor | None = None
        total = torch.zeros((), device=hidden.device)
        for start in range(0, len(targets), slices.num_tokens):
            part = slice(start, start + slices.num_tokens)
            h = chosen[part].to(slices.weight.dtype)
            loss, gradient = slices.loss(h, targets[part], needs_grad)
            total += loss
            if hidden_grad is None:
                continue
            hidden_grad[part] = gradient @ slices.weight
            if needs_head_grad:  # none of a frozen head; summed in the head's own precision
                grad = gradient.t() @ h
                head_grad = grad.to(head.dtype) if head_grad is None else head_grad.add_(grad)
        if learnt is not None and hidden_grad is not None:
            hidden_grad = torch.zeros_like(hidden).index_copy_(0, learnt, hidden_grad)
        of_head = None if head_grad is None else head_grad[: len(head)]
        ctx.save_for_backward(hidden_grad, of_head, factor)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, head_grad, factor = ctx.saved_tensors
        rest = grads[0] if factor is None else grads[0] / factor
        # In place: these buffers are nobody else's, and the head's is 150 MB.
        of_head = None if head_grad is None else head_grad.mul_(rest)
        return hidden_grad.mul_(rest), of_head, None, None, None, None, None


class _Slices:
    """
    The head's product and the loss of a slice of tokens.

    Args:
        hidden: All hidden states. (N, C)
        head: See `summed_loss`.
        compiled: Whether loss and gradient are made in one pass, in memory that all slices share.
        room: See `summed_loss`.
        factor: See `summed_loss`.
    """

    def __init__(
        self,
        hidden: Tensor,
        head: Tensor,
        compiled: bool,
        room: Room | None,
        factor: Tensor | None,
    ) -> None:
        self.weight, self._bias = _for_products(head)
        of_kind = COMPILED_SLICE_TOKENS if compiled else SLICE_TOKENS
        # Not fewer for a micro-batch of which little is learnt: what is compiled has one shape.
        self.num_tokens = min(of_kind[hidden.device.type], len(hidden))
        self._logits: Tensor | None = None
        self._factor = factor
        self._room = room if hidden.device.type == "cpu" else None
        if compiled:
            self._logits = self.weight.new_empty((self.num_tokens, len(self.weight)))

    def loss(self, h: Tensor, targets: Tensor, needs_grad: bool) -> tuple[Tensor, Tensor]:
        """Return a slice's summed loss and, if it is needed, the gradient by its logits."""
        if self._logits is not None:
            return self._in_one_pass(self._logits, h, targets)
        if self._room is not None:
            return self._in_room(self._room, h, targets, needs_grad)
        scores = F.linear(h, self.weight, self._bias).float()
        if not needs_grad:
            loss = F.cross_entropy(scores, targets, ignore_index=IGNORED, reduction="sum")
            return loss, scores
        loss, gradient = as_written(scores, targets)
        return loss, self._scaled(gradient).to(self.weight.dtype)

    def _in_room(
        self, room: Room, h: Tensor, targets: Tensor, needs_grad: bool
    ) -> tuple[Tensor, Tensor]:
        scores, log_probabilities = room.of(len(h), len(self.weight))
        if h.dtype == scores.dtype:
            self._product(h, scores)
        else:
            scores.copy_(F.linear(h, self.weight, self._bias))
        loss = in_room(scores, targets, log_probabilities, needs_grad)
        return loss, self._scaled(scores).to(self.weight.dtype) if needs_grad else scores

    def _scaled(self, gradient: Tensor) -> Tensor:
        return gradient if self._factor is None else gradient.mul_(self._factor)

    def _product(self, h: Tensor, logits: Tensor) -> None:
        """Put what `F.linear` returns into a tensor."""
        if self._bias is None:
            torch.mm(h, self.weight.t(), out=logits)
        else:
            torch.addmm(self._bias, h, self.weight.t(), out=logits)

    def _in_one_pass(self, logits: Tensor, h: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        self._product(h, logits[: len(h)])
        # Rows behind the last one hold what was there before; their targets are ignored.
        filled = F.pad(targets, (0, len(logits) - len(targets)), value=IGNORED)
        loss = one_pass()(logits, filled, self._factor)
        return loss, logits[: len(h)]


def _for_products(head: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the head as it is multiplied: in autocast's type, and filled up with its bias."""
    kind = head.device.type
    dtype = _product_dtype(kind, head.dtype)
    missing = -len(head) % HEAD_MULTIPLE[kind]
    if not missing:
        return head.detach().to(dtype), None
    weight = F.pad(head.detach().to(dtype), (0, 0, 0, missing))
    bias = weight.new_zeros(len(weight))
    bias[len(head) :] = -torch.inf
    return weight, bias


def on_device(batch: MicroBatch, device: torch.device) -> Inputs:
    """
    Return the arrays of a micro-batch as tensors; copies to a GPU do not wait.

    Which targets count is told from the arrays: to ask a GPU would be to wait for it.
    """
    learnt = np.flatnonzero(batch.targets != IGNORED)
    is_worth_it = 0 < len(learnt) <= (1 - SHARE_WORTH_LEAVING_OUT) * batch.targets.size
    tokens, targets, positions, row_ids = (_sent(array, device) for array in batch)
    starts = _sent(row_starts(batch.row_ids), device) if _goes_by_rows(device) else None
    where = _sent(learnt, device) if is_worth_it else None
    return Inputs(tokens, targets, positions, row_ids, starts, where)


def _sent(array: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


@functools.cache
def _goes_by_rows(device: torch.device) -> bool:
    """Return False on GPUs before Ampere: flash attention is not there for them."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
