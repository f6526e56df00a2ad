"""
Llama and its relatives (Mistral, Qwen2, Qwen3, SmolLM2) with Hugging Face's parameter names.

    model = Llama(shape, dropout=0.0)
    hidden = model(tokens, positions, row_mask(row_ids))     # (B, T, C)
    logits = model.logits(hidden)                            # (B, T, V)

Beside GPT-2: norms without a mean, positions as a turn of queries and keys, keys and values shared by
several heads, a gated MLP, and a head that may have a weight of its own. Which biases and norms there are
is the shape's to say.

Sources: Touvron et al. 2023 (arXiv 2302.13971 and 2307.09288); Su et al. 2021 (RoPE, arXiv 2104.09864);
transformers' modeling_llama.py, modeling_qwen2.py, modeling_qwen3.py, modeling_mistral.py (names; parity
is tested) and modeling_rope_utils.py (scalings).

B: batch size, T: tokens, C: width, H: heads, G: heads with keys and values, D: numbers of a head,
V: vocabulary
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct_core.llama_config import LlamaConfig
from instruct_core.model.family import (
    Cache,
    Model,
    RowStarts,
    attend,
    empty_embedding,
    from_weight,
    is_few,
)

INIT_STD = 0.02


class Llama(Model):
    """The model; see Model for what it takes and returns."""

    def __init__(self, config: LlamaConfig, dropout: float = 0.0) -> None:
        super().__init__(config, dropout)
        self.model = Transformer(config, dropout)
        if not config.has_tied_head:
            self.lm_head = Projection(config.width, config.vocab_size, has_bias=False)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | RowStarts | None,
        cache: Cache | None = None,
    ) -> Tensor:
        """See Model."""
        hidden: Tensor = self.model(tokens, positions, mask, cache)
        return hidden

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers, first to last."""
        return self.model.layers

    @property
    def head_weight(self) -> Tensor:
        """The output head, which may be the token embedding. (V, C)"""
        own = getattr(self, "lm_head", self.model.embed_tokens)
        weight: Tensor = own.weight
        return weight

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw fresh weights; the same seed gives the same ones on every machine."""
        generator = torch.Generator().manual_seed(seed)
        residual_std = INIT_STD / math.sqrt(2 * self.config.num_layers)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            else:
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                parameter.normal_(0.0, residual_std if adds else INIT_STD, generator=generator)


class Turn(NamedTuple):
    """Cosines and sines of every position, which turn queries and keys. (B, T, 1, D)"""

    cosines: Tensor
    sines: Tensor

    def of(self, x: Tensor) -> Tensor:
        """Return heads turned by their positions, in float32. (B, T, H, D)"""
        first, second = x.chunk(2, dim=-1)
        return x * self.cosines + torch.cat((-second, first), dim=-1) * self.sines


class Transformer(nn.Module):
    """The embedding, blocks and the last norm, under the names of the checkpoint."""

    def __init__(self, config: LlamaConfig, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = empty_embedding(config.vocab_size, config.width)
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Block(config, dropout) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        frequencies, self.turn_factor = rope_frequencies(config)
        self.frequencies = nn.Buffer(frequencies, persistent=False)  # (D / 2,)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | RowStarts | None,
        cache: Cache | None,
    ) -> Tensor:
        x = self.drop(self.embed_tokens(tokens))
        turn = self._turn(positions)
        for layer, block in enumerate(self.layers):
            x = block(x, turn, mask, cache, layer)
        if cache is not None:
            cache.length += tokens.shape[1]
        normed: Tensor = self.norm(x)
        return normed

    @torch.no_grad()
    def _turn(self, positions: Tensor) -> Turn:
        angles = positions[..., None, None].float() * self.frequencies  # (B, T, 1, D / 2)
        both = torch.cat((angles, angles), dim=-1)
        return Turn(both.cos() * self.turn_factor, both.sin() * self.turn_factor)


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the stream."""

    def __init__(self, config: LlamaConfig, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_epsilon)
        self.self_attn = Attention(config, dropout)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_epsilon)
        self.mlp = MLP(config, dropout)

    def forward(
        self,
        x: Tensor,
        turn: Turn,
        mask: Tensor | RowStarts | None,
        cache: Cache | None,
        layer: int,
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turn, mask, cache, layer)
        after_mlp: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return after_mlp


class Attention(nn.Module):
    """Attention in which several heads share keys and values."""

    def __init__(self, config: LlamaConfig, dropout: float) -> None:
        super().__init__()
        self.head_dim, self.dropout = config.head_dim, dropout
        heads, kv_heads = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
        self.q_proj = Projection(config.width, heads, config.has_qkv_bias)
        self.k_proj = Projection(config.width, kv_heads, config.has_qkv_bias)
        self.v_proj = Projection(config.width, kv_heads, config.has_qkv_bias)
        self.o_proj = Projection(heads, config.width, config.attention_bias)
        self.has_norm = config.has_qk_norm
        if self.has_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_epsilon)
            self.k_norm = RMSNorm(config.head_dim, config.norm_epsilon)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        turn: Turn,
        mask: Tensor | RowStarts | None,
        cache: Cache | None,
        layer: int,
    ) -> Tensor:
        in_heads = (-1, self.head_dim)
        q = self.q_proj(x).unflatten(-1, in_heads)  # (B, T, H, D)
        k = self.k_proj(x).unflatten(-1, in_heads)  # (B, T, G, D)
        v = self.v_proj(x).unflatten(-1, in_heads)
        if self.has_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = turn.of(q).to(v.dtype), turn.of(k).to(v.dtype)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        y = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        projected: Tensor = self.drop(self.o_proj(y.flatten(2)))
        return projected


class MLP(nn.Module):
    """A gate of SiLU times a second projection, projected back."""

    def __init__(self, config: LlamaConfig, dropout: float) -> None:
        super().__init__()
        self.gate_proj = Projection(config.width, config.mlp_width, config.mlp_bias)
        self.up_proj = Projection(config.width, config.mlp_width, config.mlp_bias)
        self.down_proj = Projection(config.mlp_width, config.width, config.mlp_bias)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        mlp: Tensor = self.drop(self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)))
        return mlp


class RMSNorm(nn.Module):
    """Every token divided by its root mean square, in float32, and scaled."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        exact = x.float()
        scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * (exact * scale).to(x.dtype)


class Projection(nn.Module):
    """A linear layer whose weight lies as these checkpoints have it: (outputs, inputs)."""

    def __init__(self, inputs: int, outputs: int, has_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and is_few(x):
            y = from_weight(x, self.weight)
            return y if self.bias is None else y + self.bias
        return F.linear(x, self.weight, self.bias)


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
