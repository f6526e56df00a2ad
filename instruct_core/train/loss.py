"""
Cross-entropy over a whole vocabulary without ever holding all logits.

    model = WithLoss(build(shape))
    model(tokens, targets, positions, row_ids).backward()

For 8 x 1,024 tokens the logits of GPT-2 alone take 1.6 GB, and their gradient as much again. So head and
loss run over a slice of tokens at a time, and each slice's gradient is taken at once; nothing is
computed twice. The loss is a sum: the trainer divides by the loss tokens of all ranks, so that
ranks and accumulation give one result.

A GPU's tensor cores want matrices whose sides are multiples of 64, and 50,257 is odd: there such a
head gets rows of zeros with a bias of minus infinity, which no probability and no gradient reaches.

B: micro-batch size, T: seq_len, N: B x T, C: width, V: vocabulary
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct_core.data.batches import IGNORED, MicroBatch, row_starts
from instruct_core.model.family import Model, RowStarts, row_mask

SLICE_TOKENS = {"cpu": 512, "cuda": 2048}  # a GPU is quicker with longer ones
HEAD_MULTIPLE = {"cpu": 1, "cuda": 64}


class WithLoss(nn.Module):
    """A model and its loss as one module, which is what DDP wraps."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self._suits = RowStarts.suit(model.config)

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor,
        positions: Tensor,
        row_ids: Tensor,
        row_starts: Tensor | None = None,
    ) -> Tensor:
        """
        Return the summed loss of all targets that count.

        Args:
            tokens: Ids; all but the last argument are (B, T).
            targets: Ids, or IGNORED.
            positions: Place of each token in its row.
            row_ids: Equal where attention may look.
            row_starts: The same for kernels that go by it, see RowStarts; used where they can.
        """
        where: Tensor | RowStarts
        dropout = self.model.dropout if self.training else 0.0
        is_half = _product_dtype(tokens.device.type, torch.float32).itemsize == 2
        if row_starts is not None and is_half and not dropout and self._suits:
            from torch._dynamo import mark_dynamic  # takes a second, and is for GPUs

            mark_dynamic(row_starts, 0)  # no step compiles anew because it has other rows
            where = RowStarts(row_starts, tokens.shape[1])
        else:
            where = row_mask(row_ids)
        hidden = self.model(tokens, positions, where)
        return summed_loss(hidden, self.model.head_weight, targets)


def _product_dtype(kind: str, dtype: torch.dtype) -> torch.dtype:
    """Return the type in which products of ``dtype`` are made on a kind of device."""
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype


def summed_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """
    Return the sum of the cross-entropies of all targets that count, in float32.

    Args:
        hidden: Last hidden states. (B, T, C)
        head: Weight of the output head. (V, C)
        targets: Ids, or IGNORED. (B, T)
    """
    loss: Tensor = _SlicedLoss.apply(  # type: ignore[no-untyped-call]  # torch does not type it
        hidden.flatten(0, 1), head, targets.flatten()
    )
    return loss


class _SlicedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        needs_grad, needs_head_grad = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        hidden_grad = torch.empty_like(hidden) if needs_grad else None
        head_grad: Tensor | None = None
        weight, bias = _for_products(head)
        weight.requires_grad_(needs_head_grad)
        num_tokens = SLICE_TOKENS[hidden.device.type]
        for start in range(0, len(targets), num_tokens):
            part = slice(start, start + num_tokens)
            h = hidden[part].detach().requires_grad_(needs_grad)
            with torch.set_grad_enabled(needs_grad):
                logits = F.linear(h, weight, bias).float()
                loss = F.cross_entropy(logits, targets[part], ignore_index=IGNORED, reduction="sum")
            total += loss.detach()
            if hidden_grad is not None:
                wanted = (h, weight) if needs_head_grad else (h,)
                hidden_grad[part], *grads = torch.autograd.grad(loss, wanted)
                for grad in grads:  # none of a frozen head; summed in the head's own precision
                    head_grad = grad.to(head.dtype) if head_grad is None else head_grad.add_(grad)
        ctx.save_for_backward(hidden_grad, None if head_grad is None else head_grad[: len(head)])
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        hidden_grad, head_grad = ctx.saved_tensors
        # In place: these buffers are nobody else's, and the head's is 150 MB.
        of_head = None if head_grad is None else head_grad.mul_(grads[0])
        return hidden_grad.mul_(grads[0]), of_head, None


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


def on_device(batch: MicroBatch, device: torch.device) -> list[torch.Tensor]:
    """
    Return the arrays of a micro-batch as tensors; copies to a GPU do not wait.

    For GPUs whose kernels can go by them, the starts of the rows follow.
    """
    arrays: list[np.ndarray[Any, Any]] = list(batch)
    if _goes_by_rows(device):
        arrays.append(row_starts(batch.row_ids))
    tensors = [torch.from_numpy(array) for array in arrays]
    if device.type == "cuda":
        tensors = [tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors]
    return tensors


@functools.cache
def _goes_by_rows(device: torch.device) -> bool:
    """Return True on GPUs since Ampere: flash attention is not there for older ones."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
