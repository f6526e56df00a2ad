"""
The same ids, some ten times as fast, where the optional package `fastokens` is installed.

    tokenizer = choose_tokenizer("auto")      # pip install 'instruct-cluster[fast]'

The package is young, so it is not believed: on the first rows of every process its ids are
compared with tiktoken's, and if they differ tiktoken does the work, with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from instruct_core.data.gpt2_tokenizer import (
    END_OF_TEXT_ID,
    Gpt2Tokenizer,
    has_long_blanks,
    load_gpt2_tokenizer,
    merges_path,
)
from instruct_core.errors import ConfigError, how_to_install

logger = logging.getLogger(__name__)

EncoderName = Literal["auto", "tiktoken", "fastokens"]
CHECKED_ROWS = 500


class FastTokenizer(Gpt2Tokenizer):
    """
    Encodes rows with fastokens as long as it agrees with a reference tokenizer.

    Args:
        reference: The one that is believed.
        make_engine: Makes fastokens's, at the first rows: a launcher has none.
    """

    def __init__(self, reference: Gpt2Tokenizer, make_engine: Callable[[], Any]) -> None:
        self._reference, self._make_engine = reference, make_engine
        self.encoding, self.bytes_of_token = reference.encoding, reference.bytes_of_token
        self._checked = False

    def encode_texts(self, texts: Sequence[str]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """Return what the reference would return; see `Gpt2Tokenizer.encode_texts`."""
        if has_long_blanks(texts):
            return self._reference.encode_texts(texts)
        if not self._checked:
            self._check(texts[:CHECKED_ROWS])
        if self._engine is None:
            return self._reference.encode_texts(texts)
        return self._encode_fast(texts)

    def _check(self, texts: Sequence[str]) -> None:
        self._checked, self._engine = True, self._make_engine()
        (tokens, ends) = self._encode_fast(texts)
        (tokens_, ends_) = self._reference.encode_texts(texts)
        if not (np.array_equal(tokens, tokens_) and np.array_equal(ends, ends_)):
            logger.warning("fastokens differs from tiktoken; tiktoken does the work instead")
            self._engine = None

    def _encode_fast(self, texts: Sequence[str]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        ids, offsets = self._engine.encode_batch_flat(list(texts), split_special_tokens=True)
        ends = np.frombuffer(offsets, np.uint64)[1:].astype(np.int64)
        # Room for one end-of-text token after each row.
        tokens = np.insert(np.frombuffer(ids, np.uint32).astype(np.uint16), ends, END_OF_TEXT_ID)
        return tokens, ends + np.arange(1, len(ends) + 1)


def choose_tokenizer(name: EncoderName) -> Gpt2Tokenizer:
    """
    Return GPT-2's tokenizer for bulk work; "auto" takes fastokens where it is installed.

    Raises:
        ConfigError: fastokens is asked for, and not installed.
    """
    installed = find_spec("fastokens") is not None
    if name == "fastokens" and not installed:
        raise ConfigError(
            f"--encoder fastokens needs the package fastokens. {how_to_install('fast')}"
        )
    if name == "tiktoken" or not installed:
        return load_gpt2_tokenizer()
    return FastTokenizer(load_gpt2_tokenizer(), _engine)


def _engine() -> Any:
    import fastokens

    return fastokens.Tokenizer.from_json_str(gpt2_as_json())


def gpt2_as_json() -> str:
    """Return GPT-2's tokenizer in the format of Hugging Face's tokenizers."""
    folder = merges_path().parent
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    model = {
        "type": "BPE",
        "vocab": orjson.loads((folder / "encoder.json").read_bytes()),
        "merges": (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1],
    }
    document = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": byte_level | {"use_regex": True},
        "decoder": byte_level,
        "model": model,
    }
    return orjson.dumps(document).decode()
