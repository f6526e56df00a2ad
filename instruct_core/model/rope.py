"""
By how much positions turn queries and keys, plain and with the scalings that stretch a context.

    frequencies, factor = rope_frequencies(config)       # (D / 2,)
    q = Turn(cosines, sines).of(q)                       # (B, T, H, D)

Sources: Su et al. 2021 (RoPE, arXiv 2104.09864); Peng et al. 2023 (YaRN, arXiv 2309.00071); transformers'
modeling_rope_utils.py (parity is tested).

B: batch size, T: tokens, H: heads, D: numbers of a head
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from instruct_core.llama_config import LlamaConfig


class Turn(NamedTuple):
    """Cosines and sines of every position, which turn queries and keys. (B, T, 1, D)"""

    cosines: Tensor
    sines: Tensor

    def of(self, x: Tensor) -> Tensor:
        """Return heads turned by their positions, in float32. (B, T, H, D)"""
        turned: Tensor = _Turned.apply(  # type: ignore[no-untyped-call]  # torch does not type it
            x.float(), self.cosines, self.sines
        )
        return turned


class _Turned(torch.autograd.Function):
    """Torch's own gradient copies halves of heads about; it is the turn back, and needs no copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        return _turn(x, cosines, sines, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cosines, sines = ctx.saved_tensors
        return _turn(grads[0], cosines, sines, -1.0), None, None


def _turn(x: Tensor, cosines: Tensor, sines: Tensor, direction: float) -> Tensor:
    half = x.shape[-1] // 2
    turned = x * cosines
    turned[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-direction)
    turned[..., half:].addcmul_(x[..., :half], sines[..., half:], value=direction)
    return turned


def rope_frequencies(config: LlamaConfig) -> tuple[Tensor, float]:
    """
    Return by how much each pair of a head's numbers turns from one position to the next, (D / 2,), and
    the factor of its length.
    """
    scaling, dim = config.rope_scaling, config.head_dim
    plain = 1.0 / config.rope_theta ** (torch.arange(0, dim, 2).float() / dim)
    match scaling.rope_type:
        case "default" | "dynamic":  # which stretches only what is beyond max_position_embeddings
            return plain, 1.0
        case "linear":
            return plain / _number(scaling.factor), 1.0
        case "llama3":
            return _llama3(plain, config), 1.0
        case "yarn":
            return _yarn(plain, config)
    raise AssertionError(scaling.rope_type)


def _number(value: float | None) -> float:
    assert value is not None, "a scaling has all numbers of its kind: llama_settings.py"
    return value


def _llama3(plain: Tensor, config: LlamaConfig) -> Tensor:
    """Return long waves divided by the factor, short ones as they are, and a mixture between."""
    scaling, context = (
        config.rope_scaling,
        _number(config.rope_scaling.original_max_position_embeddings),
    )
    factor, low, high = map(
        _number, (scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor)
    )
    waves = context / (2 * math.pi / plain)  # in the context
    kept = ((waves - low) / (high - low)).clamp(0, 1)
    return _mixed(plain, kept, factor)


def _mixed(plain: Tensor, kept: Tensor, factor: float) -> Tensor:
    return (1 - kept) * plain / factor + kept * plain


def _yarn(plain: Tensor, config: LlamaConfig) -> tuple[Tensor, float]:
    """Peng et al. 2023 (arXiv 2309.00071): as above, between two numbers of turns in the context."""
    scaling, dim = config.rope_scaling, config.head_dim
    factor = _number(scaling.factor)
    context = _number(scaling.original_max_position_embeddings)

    def place(turns: float) -> float:
        return dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low, high = place(scaling.beta_fast or 32), place(scaling.beta_slow or 1)
    if scaling.truncate is not False:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = (torch.arange(dim // 2).float() - low) / ((high - low) or 0.001)
    kept = 1 - ramp.clamp(0, 1)
    length = scaling.attention_factor
    if length is None and scaling.mscale and scaling.mscale_all_dim:
        length = _length(factor, scaling.mscale) / _length(factor, scaling.mscale_all_dim)
    return _mixed(plain, kept, factor), _length(factor) if length is None else length


def _length(factor: float, scale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
