"""
Llama and its relatives (Mistral, Qwen2, Qwen3, SmolLM2) with Hugging Face's parameter names.

    model = Llama(shape, dropout=0.0)
    hidden = model(tokens, positions, row_mask(row_ids))     # (B, T, C)
    logits = model.logits(hidden)                            # (B, T, V)

Beside GPT-2: norms without a mean, positions as a turn of queries and keys, keys and values shared by
several heads, a gated MLP, and a head that may have a weight of its own. Which biases and norms there are
is the shape's to say.

Sources: Touvron et al. 2023 (arXiv 2302.13971 and 2307.09288); transformers' modeling_llama.py,
modeling_qwen2.py, modeling_qwen3.py and modeling_mistral.py (names; parity is tested).

B: batch size, T: tokens, C: width, H: heads, G: heads with keys and values, D: numbers of a head,
V: vocabulary
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct_core.llama_config import LlamaConfig
from instruct_core.model.attention import RowStarts, attend
from instruct_core.model.cache import Cache
from instruct_core.model.family import Blocks, Model, empty_embedding
from instruct_core.model.rms_norm import RMSNorm
from instruct_core.model.rope import Turn, rope_frequencies


class Llama(Model):
    """The model; see Model for what it takes and returns."""

    norms = "norm"
    adds_to_stream = ("o_proj.weight", "down_proj.weight")

    def __init__(self, config: LlamaConfig, dropout: float = 0.0) -> None:
        super().__init__(config, dropout)
        self.model = Transformer(config, dropout)
        if not config.has_tied_head:
            self.lm_head = Projection(config.width, config.vocab_size, has_bias=False)

    @property
    def trunk(self) -> nn.Module:
        """See Model."""
        return self.model

    @property
    def blocks(self) -> Blocks:
        """The layers, first to last."""
        return self.model.layers

    @property
    def head_weight(self) -> Tensor:
        """The output head, which may be the token embedding. (V, C)"""
        own = getattr(self, "lm_head", self.model.embed_tokens)
        weight: Tensor = own.weight
        return weight


class Transformer(nn.Module):
    """The embedding, blocks and the last norm, under the names of the checkpoint."""

    def __init__(self, config: LlamaConfig, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = empty_embedding(config.vocab_size, config.width)
        self.drop = nn.Dropout(dropout)
        self.layers = Blocks(Block(config, dropout) for _ in range(config.num_layers))
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
        x = self.layers(self.drop(self.embed_tokens(tokens)), self._turn(positions), mask, cache)
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
        seen = self.self_attn(self.input_layernorm(x), turn, mask, cache, layer)
        x = (x if cache is None else cache.asked(layer, x)) + seen
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
            assert mask is None, "a cache knows where its texts may look"
            y = cache.attend(layer, q, k, v)
        else:
            y = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        projected: Tensor = self.drop(self.o_proj(y.flatten(2)))
        return projected


class MLP(nn.Module):
    """A gate of SiLU times a second projection, projected back."""

    activated = "gate_proj"

    def __init__(self, config: LlamaConfig, dropout: float) -> None:
        super().__init__()
        self.gate_proj = Projection(config.width, config.mlp_width, config.mlp_bias)
        self.act = nn.SiLU()
        self.up_proj = Projection(config.width, config.mlp_width, config.mlp_bias)
        self.down_proj = Projection(config.mlp_width, config.width, config.mlp_bias)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        mlp: Tensor = self.drop(self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x)))
        return mlp


class Projection(nn.Module):
    """A linear layer whose weight lies as these checkpoints have it: (outputs, inputs)."""

    def __init__(self, inputs: int, outputs: int, has_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)
