"""
Whether shards and model speak of the same tokens.

    settled = settle_vocabulary(shape, "shards/mine", True, "models/SmolLM2-135M")
    settled.shape, settled.tokenizer            # raises where they differ
    keep_tokenizer("shards/mine", run.store)    # for chat, and for export
"""

from __future__ import annotations

from typing import Any, NamedTuple

from instruct_core.data.gpt2_tokenizer import VOCAB_SIZE
from instruct_core.data.model_template import TEMPLATE
from instruct_core.data.templates import base_template
from instruct_core.data.tokenizer import load_tokenizer, place_of_tokenizer, write_tokenizer
from instruct_core.data.tokenizer_files import GPT2, TOKENIZER_FOLDER
from instruct_core.errors import ConfigError
from instruct_core.shape import Shape, with_vocabulary
from instruct_core.storage.documents import load_document
from instruct_core.storage.store import Store
from launch.runs.tokenizers import same_tokenizer


class Vocabulary(NamedTuple):
    """A model's shape with room for the tokens of its shards, and what encodes those that are missing."""

    shape: Shape
    tokenizer: str
    has_template: bool = False  # among the tokenizer's files: its models learnt answers in it


def settle_vocabulary(shape: Shape, shards: str, has_shards: bool, init: str) -> Vocabulary:
    """
    Return what fits; random weights take the vocabulary of their shards.

    Raises:
        ConfigError: The shards are not of the model's tokenizer, or that has more tokens than it.
        MissingError: The model has no tokenizer.
    """
    document = _document(shards) if has_shards else {}
    if init == "random":
        own = document.get("own_tokenizer") or {}
        return Vocabulary(with_vocabulary(shape, own.get("vocab_size", VOCAB_SIZE)), GPT2)
    tokenizer = same_tokenizer(init, f"--init {init}", shards, document.get("tokenizer"))
    if shape.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"--init {init} knows {shape.vocab_size:,} tokens, and its tokenizer has "
            f"{tokenizer.vocab_size:,}. Give the folder of the base with its own tokenizer.json."
        )
    has_template = base_template(tokenizer) is not None
    return Vocabulary(shape, place_of_tokenizer(init), has_template)


def keep_tokenizer(shards: str, run: Store) -> None:
    """
    Put the tokenizer and the template of shards beside a run's steps.

    Nothing is written of GPT-2's tokenizer and of Alpaca's headings, which all have.
    """
    document = _document(shards)
    if document.get("own_tokenizer"):
        tokenizer = load_tokenizer(Store(shards).where(TOKENIZER_FOLDER))
        write_tokenizer(tokenizer, run / TOKENIZER_FOLDER)
    if text := document.get("template_text"):
        run.replace(TEMPLATE, text.encode())


def _document(shards: str) -> dict[str, Any]:
    """Return what says how shards are made: their manifest, or their plan until there is one."""
    store = Store(shards)
    name = "manifest.json" if store.exists("manifest.json") else "plan.json"
    return dict(load_document(store, name))
