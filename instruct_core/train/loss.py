"""
Cross-entropy over a 50,257-word vocabulary without ever holding all logits.

    model = WithLoss(GPT2(...))
    model(tokens, targets, positions, row_ids).backward()

For 8 x 1,024 tokens the logits alone take 1.6 GB, and their gradient as much again. So head and
loss run over a slice of tokens at a time, and each slice's gradient is taken at once; nothing is
computed twice. The loss is a sum: the trainer divides by the loss tokens of all ranks, so that
ranks and accumulation give one result.

B: micro-batch size, T: seq_len, N: B x T, C: width, V: vocabulary
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct_core.data.batches import IGNORED
from instruct_core.model.gpt2 import GPT2, row_mask

SLICE_TOKENS = 512


class WithLoss(nn.Module):
    """A model and its loss as one module, which is what DDP wraps."""

    def __init__(self, model: GPT2) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: Tensor, targets: Tensor, positions: Tensor, row_ids: Tensor
    ) -> Tensor:
        """Return the summed loss of all targets that count. All arguments (B, T)."""
        hidden = self.model(tokens, positions, row_mask(row_ids))
        return summed_loss(hidden, self.model.head_weight, targets)


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
        needs_grad = ctx.needs_input_grad[0]
        hidden_grad = torch.empty_like(hidden) if needs_grad else None
        head_grad: Tensor | None = None
        for start in range(0, len(targets), SLICE_TOKENS):
            part = slice(start, start + SLICE_TOKENS)
            h, w = (x.detach().requires_grad_(needs_grad) for x in (hidden[part], head))
            with torch.set_grad_enabled(needs_grad):
                loss = F.cross_entropy(
                    F.linear(h, w).float(), targets[part], ignore_index=IGNORED, reduction="sum"
                )
            total += loss.detach()
            if hidden_grad is not None:
                hidden_grad[part], w_grad = torch.autograd.grad(loss, (h, w))
                head_grad = w_grad if head_grad is None else head_grad.add_(w_grad)
        ctx.save_for_backward(hidden_grad, head_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_grad, head_grad = ctx.saved_tensors
        # In place: these buffers are nobody else's, and the head's is 150 MB.
        return hidden_grad.mul_(grads[0]), head_grad.mul_(grads[0]), None
