"""
The tokenizer of a shard set, as its plan and its manifest say it.

    Encoder.of(tokenizer, "models/SmolLM2-135M").own.vocab_size      # 49152
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from instruct_core.data.gpt2_tokenizer import TOKENIZER_NAME
from instruct_core.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class OwnTokenizer:
    """What a shard set says of a tokenizer that is not GPT-2's."""

    name: str
    place: str  # that was given
    vocab_size: int
    end_id: int
    end: str


class Encoder(NamedTuple):
    """The tokenizer of a shard set, as its plan says it."""

    identity: str
    own: OwnTokenizer | None

    @classmethod
    def of(cls, tokenizer: Tokenizer, place: str) -> Encoder:
        """Return what a plan says of a tokenizer that came from a place."""
        own = OwnTokenizer(
            tokenizer.name, place, tokenizer.vocab_size, tokenizer.end_id, tokenizer.end
        )
        return cls(tokenizer.identity, own if tokenizer.files else None)


GPT2S = Encoder(TOKENIZER_NAME, None)
