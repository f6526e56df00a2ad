"""
What every tokenizer can do, and the one way to get it.

    tokenizer = load_tokenizer("gpt2")                       # or a folder or URL with a tokenizer.json
    tokenizer.encode("What is AI?")                          # [2061, 318, 9552, 30]
    tokenizer.encode("Yes.", tokenizer.end_id)               # text and tokens by turns
    rows = tokenizer.encode_rows([[Stretch(["What is AI?", " A field."], tokenizer.end_id)]])

GPT-2's comes with the installation; any other is what Hugging Face's `tokenizers` reads from a
folder. A control token is only ever one that was asked for by its number: where it is spelled in a
text it is ordinary text, so no row of a data set can end itself, or speak for somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from instruct_core.data.token_rows import EncodedRows, Part
from instruct_core.data.tokenizer_files import (
    GPT2,
    MODEL,
    TOKENIZER,
    TOKENIZER_FOLDER,
    read_tokenizer_files,
)
from instruct_core.errors import ConfigError
from instruct_core.lora_settings import CONFIG_FILE as ADAPTER
from instruct_core.storage.documents import load_document
from instruct_core.storage.store import Store


class Tokenizer(Protocol):
    """See the module's page; all that a tokenizer is asked for."""

    @property
    def name(self) -> str:
        """What a person calls it: gpt2, or its folder."""

    @property
    def identity(self) -> str:
        """A hash of all that decides the tokens; two that differ give other tokens."""

    @property
    def vocab_size(self) -> int:
        """One more than the highest token."""

    @property
    def begin_ids(self) -> tuple[int, ...]:
        """Tokens that its models expect before every text; mostly none."""

    @property
    def end_id(self) -> int:
        """The token that ends a row, and an answer."""

    @property
    def end(self) -> str:
        """How it is spelled, among the control tokens."""

    @property
    def end_ids(self) -> frozenset[int]:
        """All tokens at which its models end an answer."""

    @property
    def specials(self) -> Mapping[str, int]:
        """The control tokens, by how they are spelled."""

    @property
    def files(self) -> Mapping[str, bytes]:
        """What another machine needs to load the same one, by file name; none for GPT-2's."""

    @property
    def loses(self) -> Callable[[str], bool] | None:
        """Tells whether a text has characters that no token says; None where every text can be said."""

    def special_id(self, text: str) -> int | None:
        """Return the control token that is spelled so; None where there is none."""

    def encode(self, *parts: Part) -> list[int]:
        """Return the tokens of texts and tokens, one after another."""

    def encode_rows(self, rows: Sequence[Sequence[Part]]) -> EncodedRows:
        """Return the tokens of many rows; texts that stand side by side are encoded as one."""

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of one token, which may be a part of a character."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, with U+FFFD where they are not UTF-8."""


def load_tokenizer(place: str = GPT2) -> Tokenizer:
    """
    Return the tokenizer of a place: `gpt2`, or a folder or URL with a tokenizer.json.

    Where a folder's own is GPT-2's, that one is returned: its shards are the same.

    Raises:
        MissingError: A file of it is not there; names it.
        ConfigError: It is of a kind that is not read, or does not say how a text ends.
        CorruptFileError: A file is damaged, or not the one that was published.
    """
    # Here, because most runs need one of the two libraries and not the other.
    from instruct_core.data.gpt2_tokenizer import is_gpt2, load_gpt2_tokenizer

    if place == GPT2:
        return load_gpt2_tokenizer()
    found = read_tokenizer_files(place)
    if is_gpt2(found):
        return load_gpt2_tokenizer()
    from instruct_core.data.json_tokenizer import JsonTokenizer

    return JsonTokenizer(found)


def write_tokenizer(tokenizer: Tokenizer, folder: Store) -> None:
    """Write the files of a tokenizer where others will load it; none of GPT-2's, which all have."""
    for name, data in sorted(tokenizer.files.items()):
        folder.replace(name, data)


def tokenizer_of_model(place: str) -> Tokenizer:
    """
    Return the tokenizer of a model: that of its folder, else of the run whose step it is, else GPT-2's.

    Args:
        place: Path or URL of a Hugging Face folder, a step folder or a file of weights.

    Raises:
        MissingError: It is no GPT-2, and has none.
    """
    return load_tokenizer(place_of_tokenizer(place))


def place_of_tokenizer(model: str, adapters: tuple[str, ...] = ()) -> str:
    """
    Return where `tokenizer_of_model` looks: `gpt2`, where a model has none of its own.

    Args:
        model: Its place.
        adapters: That stand on it.

    Raises:
        ConfigError: These are adapters that stand on themselves.
    """
    if model in adapters:
        raise ConfigError(
            f"Adapter {model} stands on itself: base_model_name_or_path in its {ADAPTER} names no base. "
            "Write the base's place there."
        )
    store = Store(model)
    names = store.names()
    run = Store(model.rstrip("/").rpartition("/")[0] or "/")
    if TOKENIZER in names:
        return model
    if (run / TOKENIZER_FOLDER).exists(TOKENIZER):
        return (run / TOKENIZER_FOLDER).url
    if ADAPTER in names and (base := load_document(store, ADAPTER).get("base_model_name_or_path")):
        return place_of_tokenizer(str(base), (*adapters, model))
    if MODEL not in names or run.exists("run.json"):  # a run keeps any other tokenizer
        return GPT2
    return GPT2 if load_document(store, MODEL).get("model_type", GPT2) == GPT2 else model
