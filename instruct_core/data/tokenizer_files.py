"""
The files of a tokenizer in a folder or store, and what they say about how a text ends.

    found = read_tokenizer_files("models/SmolLM2-135M-Instruct")
    found.document["model"]["type"]             # "BPE"
    found.ends({"<|im_end|>": 2})               # Ends(end_id=2, end_ids=frozenset({2}))

Two fields may name the end: `eos_token` of tokenizer_config.json (a text), and `eos_token_id` of
generation_config.json or config.json (a number, or several). The first ends a row; at any of them
an answer ends.

Source: transformers' tokenization_utils_base.py and generation/configuration_utils.py (the names).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from instruct_core.errors import ConfigError, CorruptFileError, MissingError
from instruct_core.storage.json_text import RepeatedKeyError, parse_json
from instruct_core.storage.store import Store

GPT2 = "gpt2"  # as it is typed: the one that needs no files
TOKENIZER_FOLDER = "tokenizer"  # of a run, and of a shard set, where theirs is not GPT-2's
TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
GENERATION = "generation_config.json"
MODEL = "config.json"
MERGES = "merges.txt"  # of GPT-2, in a folder without tokenizer.json
CHAT_TEMPLATE = "chat_template.jinja"
# What goes along with a shard set, a run and an export; config.json is a model's, and stays.
COPIED = (TOKENIZER, SETTINGS, SPECIAL, GENERATION, CHAT_TEMPLATE)


class Ends(NamedTuple):
    """The token that ends a row, and all at which an answer ends."""

    end_id: int
    end_ids: frozenset[int]


class TokenizerFiles(NamedTuple):
    """What was found: the bytes of the files by name, and what is in them."""

    place: str
    files: dict[str, bytes]
    documents: dict[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """
        The content of tokenizer.json.

        Raises:
            MissingError: It is not there.
        """
        if TOKENIZER not in self.documents:
            raise _missing(self.place, set(self.files))
        return dict(self.documents[TOKENIZER])

    @property
    def where(self) -> str:
        """The place of tokenizer.json, for messages."""
        return f"{self.place}/{TOKENIZER}"

    def ends(self, vocabulary: Mapping[str, int]) -> Ends:
        """
        Return how texts end.

        Args:
            vocabulary: The numbers of the tokens, by how they are spelled.

        Raises:
            ConfigError: No file says it, or one says what the vocabulary does not have.
        """
        numbers = self._numbers(vocabulary)
        for name in (SETTINGS, SPECIAL):
            token = self.documents.get(name, {}).get("eos_token")
            text = token.get("content") if isinstance(token, dict) else token
            if text is None:
                continue
            if not isinstance(text, str) or text not in vocabulary:
                raise ConfigError(
                    f"Tokenizer {self.place}/{name} has the eos_token {text!r}, which {TOKENIZER} "
                    "does not know. Name one of its tokens."
                )
            return Ends(vocabulary[text], frozenset({vocabulary[text], *numbers}))
        if numbers:
            return Ends(numbers[0], frozenset(numbers))
        raise ConfigError(
            f"Tokenizer {self.place} does not say how a text ends: {SETTINGS} has no eos_token, and "
            f'neither {GENERATION} nor {MODEL} an eos_token_id. Add "eos_token" to {SETTINGS}.'
        )

    def _numbers(self, vocabulary: Mapping[str, int]) -> list[int]:
        known = set(vocabulary.values())
        for name in (GENERATION, MODEL):
            value = self.documents.get(name, {}).get("eos_token_id")
            numbers = value if isinstance(value, list) else [value]
            if value is None or not numbers:
                continue
            if any(type(number) is not int or number not in known for number in numbers):
                raise ConfigError(
                    f"Tokenizer {self.place}/{name} has the eos_token_id {value}, which "
                    f"{TOKENIZER} does not know. Name its tokens by their numbers."
                )
            return numbers
        return []


def read_tokenizer_files(place: str) -> TokenizerFiles:
    """
    Read the files of a folder or URL.

    Raises:
        MissingError: There is neither a tokenizer.json nor a merges.txt.
        CorruptFileError: One of them is no JSON object, or has a key twice.
        ConfigError: The store does not answer to that URL.
    """
    store = Store(place)
    names = set(store.names())
    if TOKENIZER not in names and MERGES not in names:
        raise _missing(place, names)
    files = {name: store.read(name) for name in (*COPIED, MERGES) if name in names}
    others = {MODEL: store.read(MODEL)} if MODEL in names else {}
    documents = {
        name: _object(data, f"{place}/{name}")
        for name, data in (files | others).items()
        if name.endswith(".json")
    }
    return TokenizerFiles(place.rstrip("/"), files, documents)


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
        # The vocabulary of tokenizer.json is long, and written by no person.
        if not where.endswith(f"/{TOKENIZER}"):
            parse_json(data)
    except RepeatedKeyError as error:
        raise CorruptFileError(f"{where} says two things: {error}. Leave one of them.") from None
    except ValueError as error:
        raise CorruptFileError(f"{where} is no JSON: {error}. Fetch it again.") from None
    if not isinstance(document, dict):
        raise CorruptFileError(f"{where} is no JSON object. Fetch it again.")
    return document


def _missing(place: str, names: set[str]) -> MissingError:
    if not names:
        return MissingError(
            f"Tokenizer {place} is not there. Give gpt2, or a folder or URL with a {TOKENIZER}."
        )
    slow = [name for name in ("tokenizer.model", "merges.txt", "vocab.txt") if name in names]
    hint = "Fetch it, or name the base's own folder."
    if slow:
        hint = (
            f'Convert {slow[0]}: python -c "import transformers as t; '
            f"t.AutoTokenizer.from_pretrained('{place}').save_pretrained('{place}')\""
        )
    return MissingError(f"Tokenizer {place} has no {TOKENIZER}. {hint}")
