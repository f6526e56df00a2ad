"""
What is said of every model, whichever family it is of: launchers, memory, flops and manifests go by it.
No torch.

    shape.model_type, shape.num_parameters, shape.max_seq_len       # "gpt2", 124439808, 1024

A family's own class has these and what else it needs; config.py lists the classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Protocol

TRAINED = "trained_positions"  # in a config.json, and in a manifest


class Shape(Protocol):
    """A frozen dataclass whose fields are what a manifest keeps of a model."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def model_type(self) -> str:
        """The family's name, as config.json has it."""

    @property
    def num_layers(self) -> int:
        """Blocks, one after another."""

    @property
    def num_heads(self) -> int:
        """Heads that ask, in every layer."""

    @property
    def num_kv_heads(self) -> int:
        """Heads with keys and values; several that ask may share one."""

    @property
    def head_dim(self) -> int:
        """Numbers of a head's query."""

    @property
    def width(self) -> int:
        """Numbers of a token's hidden state."""

    @property
    def max_seq_len(self) -> int:
        """Positions."""

    @property
    def trained_positions(self) -> int | None:
        """How many of them training has reached, from the first one on; None for all."""

    @property
    def vocab_size(self) -> int:
        """Tokens that have an embedding; a tokenizer may know fewer."""

    @property
    def num_parameters(self) -> int:
        """Trainable numbers."""

    @property
    def product_weights(self) -> int:
        """Weights that every token is multiplied with, the output head's among them."""

    @property
    def kept_numbers(self) -> int:
        """About how many numbers all layers keep of a token for the backward."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """All that must be above zero, for who reads a shape that somebody else wrote."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a text; the first is the one that is written."""

    @property
    def hugging_face(self) -> dict[str, Any]:
        """The content of config.json."""


def usable_positions(shape: Shape) -> int:
    """
    Return how many tokens a text may have that is given to a model: its positions, if all are trained.

    The rows of learnt positions that training never reached are still the draw that they began with,
    and turned ones are as far apart as no two tokens that the weights have seen.
    """
    return shape.trained_positions or shape.max_seq_len


def trained_said(shape: Shape) -> str:
    """Return in words how far training has come; "" where it has reached all positions."""
    if shape.trained_positions is None:
        return ""
    return f"trained on {shape.trained_positions:,} of its {shape.max_seq_len:,} positions"


def with_trained(shape: Shape, trained_positions: int | None) -> Shape:
    """Return the shape of a model that training has taken so far; None where it has reached all."""
    if trained_positions is not None and trained_positions >= shape.max_seq_len:
        trained_positions = None
    return replace(shape, trained_positions=trained_positions)


def config_file(shape: Shape) -> dict[str, Any]:
    """Return the content of the config.json that is written beside weights."""
    trained = shape.trained_positions
    return shape.hugging_face | ({} if trained is None else {TRAINED: trained})


def with_vocabulary(shape: Shape, vocab_size: int) -> Shape:
    """Return the shape of a model that knows so many tokens; where they are others, so are its ends."""
    if vocab_size == shape.vocab_size:
        return shape
    without_ends = {name: () for name in ("end_ids",) if name in shape.__dataclass_fields__}
    return replace(shape, vocab_size=vocab_size, **without_ends)
