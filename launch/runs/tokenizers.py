"""
Which tokenizer is meant: `gpt2`, a folder or URL, or a model of the Hugging Face Hub; and whether
shards and a model have the same.

    found = find_tokenizer("HuggingFaceTB/SmolLM2-135M-Instruct")
    found.place, found.again       # a folder in the Hub's cache, and what to type anywhere
"""

from __future__ import annotations

from typing import NamedTuple

from instruct_core.data.remake import command_that_makes
from instruct_core.data.templates import base_template
from instruct_core.data.tokenizer import Tokenizer, load_tokenizer, place_of_tokenizer
from instruct_core.data.tokenizer_files import GPT2, TOKENIZER, TOKENIZER_FOLDER
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from launch.runs.hub import SHORT, hub_id, tokenizer_folder
from launch.runs.places import absolute, reachable


class Found(NamedTuple):
    """Where a tokenizer is, and what names it from any folder."""

    place: str
    again: str


def find_tokenizer(typed: str) -> Found:
    """
    Return the place of a tokenizer for `load_tokenizer`; one of the Hub is fetched.

    Raises:
        MissingError: It is neither here nor on the Hub.
        ConfigError: A store does not answer.
    """
    if typed in SHORT:  # all of GPT-2's sizes have one
        return Found(GPT2, GPT2)
    with reachable("--tokenizer", typed):
        is_there = bool(Store(absolute(typed)).names())
    if not is_there and (repo := hub_id(typed)):
        return Found(str(tokenizer_folder(repo)), repo)
    return Found(absolute(typed), absolute(typed))


def same_tokenizer(model: str, words: str, shards: str, made_with: str | None) -> Tokenizer:
    """
    Return the tokenizer of a model and of shards.

    Tokens of another one would be numbers without a meaning to the model, and nothing that it
    computes would show it.

    Args:
        model: Path or URL.
        words: The model as messages name it.
        shards: Place of the set.
        made_with: What its manifest names, or its plan until there is one; None where it is to be made.

    Raises:
        ConfigError: They have different ones; says the command that makes the right shards.
        MissingError: The model has none.
    """
    place = place_of_tokenizer(model)
    tokenizer = load_tokenizer(place)
    if made_with in (None, tokenizer.identity):
        return tokenizer
    own = Store(shards) / TOKENIZER_FOLDER  # which an earlier version may have named otherwise
    if own.exists(TOKENIZER) and load_tokenizer(own.url).identity == tokenizer.identity:
        return tokenizer
    has_template = base_template(tokenizer) is not None
    make = command_that_makes(Store(shards), f"{shards}-{tokenizer.name}", place, has_template)
    raise ConfigError(
        f"Shards {shards} were made with the tokenizer {made_with}, and {words} has {tokenizer.name} "
        f"({tokenizer.identity}). Make those it needs: {make}"
    )
