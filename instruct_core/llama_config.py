"""
The shape of a model of the Llama family: Llama, Mistral, Qwen2 and Qwen3. No torch.

    shape = LlamaConfig(
        num_layers=30, num_heads=9, num_kv_heads=3, head_dim=64, width=576, mlp_width=1536,
        max_seq_len=8192, vocab_size=49152, end_ids=(2,), has_tied_head=True,
    )
    shape.hugging_face["num_key_value_heads"]           # 3

What somebody's config.json must say to be one: instruct_core/model/llama_settings.py. The module itself:
instruct_core/model/llama.py.

Sources: transformers' configuration_llama.py, configuration_mistral.py, configuration_qwen2.py and
configuration_qwen3.py (names); modeling_rope_utils.py (the numbers of a scaling).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

# Of one computation, with biases and norms in other places.
LLAMA_TYPES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


@dataclass(frozen=True)
class RopeScaling:
    """How turns of positions are stretched, in the file's words; None where a kind needs no number."""

    rope_type: str = "default"
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The shape of a Llama and its relatives. See Shape."""

    model_type: str = "llama"
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    width: int
    mlp_width: int
    max_seq_len: int
    vocab_size: int
    end_ids: tuple[int, ...] = ()
    begin_id: int | None = None
    pad_id: int | None = None
    norm_epsilon: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    has_tied_head: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    trained_positions: int | None = field(default=None, compare=False)

    @property
    def has_qkv_bias(self) -> bool:
        """Queries, keys and values have a bias."""
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def has_qk_norm(self) -> bool:
        """Queries and keys are normed, head by head."""
        return self.model_type == "qwen3"

    @property
    def num_parameters(self) -> int:
        """Trainable numbers; a tied head is the token embedding."""
        heads, kv_heads = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = 2 * self.width * (heads + kv_heads)
        attention += (heads + 2 * kv_heads) * self.has_qkv_bias + self.width * self.attention_bias
        mlp = 3 * self.width * self.mlp_width + (2 * self.mlp_width + self.width) * self.mlp_bias
        norms = 2 * self.width + 2 * self.head_dim * self.has_qk_norm
        embeddings = self.vocab_size * self.width * (1 if self.has_tied_head else 2)
        return embeddings + self.num_layers * (attention + mlp + norms) + self.width

    @property
    def product_weights(self) -> int:
        """All but an embedding that is not the head too."""
        looked_up = 0 if self.has_tied_head else self.vocab_size * self.width
        return self.num_parameters - looked_up

    @property
    def kept_numbers(self) -> int:
        """About how many numbers all layers keep of a token for the backward."""
        heads = (4 * self.num_heads + 3 * self.num_kv_heads) * self.head_dim
        return self.num_layers * (6 * self.width + heads + 5 * self.mlp_width)

    @property
    def sizes(self) -> tuple[int, ...]:
        """All that must be above zero."""
        return (
            self.num_layers, self.num_heads, self.num_kv_heads, self.head_dim, self.width,
            self.mlp_width, self.max_seq_len, self.vocab_size,
        )  # fmt: skip

    @property
    def hugging_face(self) -> dict[str, Any]:
        """The content of config.json, in the words that every version of transformers reads."""
        end: int | list[int] | None = list(self.end_ids) or None
        if len(self.end_ids) == 1:
            end = self.end_ids[0]
        scaling = {k: v for k, v in asdict(self.rope_scaling).items() if v is not None}
        return {
            "architectures": [LLAMA_TYPES[self.model_type]],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_seq_len,
            "hidden_size": self.width,
            "intermediate_size": self.mlp_width,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_epsilon,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling if self.rope_scaling.rope_type != "default" else None,
            "sliding_window": None,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "bos_token_id": self.begin_id,
            "eos_token_id": end,
            "pad_token_id": self.pad_id,
            "tie_word_embeddings": self.has_tied_head,
        }
