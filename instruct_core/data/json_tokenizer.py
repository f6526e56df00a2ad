"""
A base's own tokenizer: the tokenizer.json of its folder, read by Hugging Face's `tokenizers`.

    tokenizer = JsonTokenizer(read_tokenizer_files("models/SmolLM2-135M-Instruct"))
    tokenizer.identity, tokenizer.end_ids       # "bpe-5c1d5d8f9ad4", frozenset({2})

Its pieces spell bytes in one of two ways (see pieces.py), both of which decode token by token, so an
answer can be shown while it comes.

Source: tokenizers' tokenizer/added_vocabulary.rs (a text is cut at control tokens first, and what
stands between them is encoded as if it stood alone; only `Metaspace` may ask whether it is the first).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
import tokenizers
import xxhash

from instruct_core.data.pieces import BYTE, BYTE_OF_CHAR, spelling_of
from instruct_core.data.token_rows import EncodedRows, Part, Stretch, stretches_of, token_type
from instruct_core.data.tokenizer_files import GENERATION, TOKENIZER_FOLDER, TokenizerFiles
from instruct_core.data.values import without_blanks
from instruct_core.errors import ConfigError

# What of tokenizer.json decides the tokens; where a text is cut or filled up is for others to say.
DECIDES = ("added_tokens", "normalizer", "pre_tokenizer", "model")


class JsonTokenizer:
    """A tokenizer of `tokenizers`; see the module's page."""

    def __init__(self, found: TokenizerFiles) -> None:
        document = found.document
        self.name = found.place.removesuffix(f"/{TOKENIZER_FOLDER}").rpartition("/")[2]
        self._spelling = spelling_of(document.get("decoder"), found.where)
        self._first = _engine(document, found.where)
        self._later = _engine(_for_later_texts(document), found.where)
        self._vocabulary = self._first.get_vocab(with_added_tokens=True)
        self.vocab_size = max(self._vocabulary.values(), default=-1) + 1
        self._added = self._first.get_added_tokens_decoder()
        self.end_id, self.end_ids = found.ends(self._vocabulary)
        self.end = next(piece for piece, id_ in self._vocabulary.items() if id_ == self.end_id)
        self.specials: Mapping[str, int] = MappingProxyType(self._control_tokens())
        self.files = MappingProxyType(
            _with_ends(found, [self.end_id, *sorted(self.end_ids - {self.end_id})])
        )
        self.begin_ids = _begin_ids(self._first)
        for engine in (self._first, self._later):
            engine.post_processor = None  # it would shorten what is known of a token's place
        self._refuse_spelled_specials(found.where)
        model = document["model"]
        self._unknown = model.get("unk_id", self._vocabulary.get(model.get("unk_token")))
        falls_back = self._spelling.has_bytes and model.get("byte_fallback")
        pieces = (
            BYTE_OF_CHAR if self._spelling.is_byte_level else map("<0x{:02X}>".format, range(256))
        )
        is_of_bytes = self._spelling.is_byte_level or falls_back
        self._has_every_byte = is_of_bytes and self._vocabulary.keys() >= set(pieces)
        self.identity = _identity(document, self.begin_ids, self.end_id)

    def _control_tokens(self) -> dict[str, int]:
        special = {token.content: id_ for id_, token in self._added.items() if token.special}
        bytes_ = [text for text in special if self._spelling.has_bytes and BYTE.fullmatch(text)]
        return {t: id_ for t, id_ in special.items() if t not in bytes_} | {self.end: self.end_id}

    def special_id(self, text: str) -> int | None:
        """Return the control token that is spelled so; None where there is none."""
        return self.specials.get(text)

    def encode(self, *parts: Part) -> list[int]:
        """Return the tokens of texts and tokens, one after another."""
        return [int(token) for token in self.encode_rows([parts]).tokens]

    def encode_rows(self, rows: Sequence[Sequence[Part]]) -> EncodedRows:
        """Return the tokens of many rows; see `Tokenizer`."""
        stretches = list(map(stretches_of, rows))
        encodings = self._encodings(stretches)
        tokens: list[int] = []
        part_starts: list[int] = []
        row_ends: list[int] = []
        for row in stretches:
            for texts, token in row:
                encoding, begin = next(encodings), len(tokens)
                part_starts += [begin + at for at in _starts(encoding, texts)]
                tokens += encoding.ids
                if token is not None:
                    part_starts.append(len(tokens))
                    tokens.append(token)
            row_ends.append(len(tokens))
        return EncodedRows(
            np.array(tokens, token_type(self.vocab_size)),
            np.array(row_ends, np.int64),
            np.array(part_starts, np.int64),
        )

    def _encodings(self, rows: Sequence[Sequence[Stretch]]) -> Any:
        """Return an iterator over the encodings of all stretches, in order."""
        firsts = ["".join(row[0].texts) for row in rows if row]
        others = ["".join(texts) for row in rows for texts, _ in row[1:]]
        first = iter(self._first.encode_batch(firsts, add_special_tokens=False))
        later = iter(self._later.encode_batch(others, add_special_tokens=False))
        return chain.from_iterable(
            (next(later if index else first) for index in range(len(row))) for row in rows
        )

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        found = {id_: self._spelling.bytes_of(piece) for piece, id_ in self._vocabulary.items()}
        # What was added is spelled as it is, but for bytes.
        added = {id_: token.content for id_, token in self._added.items()}
        return found | {
            id_: text.encode() for id_, text in added.items() if not BYTE.fullmatch(text)
        }

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of one token; none of a number that the vocabulary does not have."""
        return self._bytes.get(token, b"")

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, with U+FFFD where they are not UTF-8."""
        text = b"".join(map(self.bytes_of, tokens)).decode(errors="replace")
        return text.removeprefix(" ") if self._spelling.strips_blank else text

    @property
    def loses(self) -> Callable[[str], bool] | None:
        """Tells whether a text has characters that no token says; None where every byte has one."""
        return None if self._has_every_byte else self._loses

    def _loses(self, text: str) -> bool:
        encoding = self._first.encode(text, add_special_tokens=False)
        if self._unknown in encoding.ids:
            return True
        if self._first.normalizer is None:
            return without_blanks(self.decode(encoding.ids)) != without_blanks(text)
        said = bytearray(len(text))
        for begin, end in encoding.offsets:
            said[begin:end] = b"\1" * (end - begin)
        return not all(is_said or char.isspace() for is_said, char in zip(said, text, strict=True))

    def _refuse_spelled_specials(self, where: str) -> None:
        """Refuse a tokenizer in which a text can say a control token."""
        unknown = getattr(self._first.model, "unk_token", None)
        for text, id_ in self.specials.items():
            said = self.encode(text) + self.encode(f"a{text}b") + self.encode(f"a {text} b")
            if id_ in said and text != unknown:
                raise ConfigError(
                    f"Tokenizer {where} takes {text} in a text for the control token, so a row of a "
                    "data set could end itself. Such a tokenizer is not used."
                )


def _with_ends(found: TokenizerFiles, end_ids: list[int]) -> dict[str, bytes]:
    """Return the files to copy; what the model's config.json says of the ends needs another place."""
    known = found.documents.get(GENERATION, {})
    if known.get("eos_token_id") not in (None, []):
        return found.files
    return found.files | {GENERATION: orjson.dumps(known | {"eos_token_id": end_ids})}


def _engine(document: dict[str, Any], where: str) -> tokenizers.Tokenizer:
    drawn = document.get("model", {}).get("dropout")
    if drawn:
        raise ConfigError(
            f"Tokenizer {where} draws its tokens: model.dropout is {drawn}. Set it to null."
        )
    settled = document | {"truncation": None, "padding": None}
    try:
        engine = tokenizers.Tokenizer.from_str(orjson.dumps(settled).decode())
    except Exception as error:  # the library raises nothing more exact
        raise ConfigError(f"Tokenizer {where} cannot be read: {error}.") from None
    engine.encode_special_tokens = True  # as ordinary text
    return engine


def _for_later_texts(document: dict[str, Any]) -> dict[str, Any]:
    """Return what encodes a text that does not begin its row: `first` puts no blank before it."""

    def settled(step: Any) -> Any:
        if not isinstance(step, dict):
            return step
        if "pretokenizers" in step:
            return step | {"pretokenizers": [settled(inner) for inner in step["pretokenizers"]]}
        return step | {"prepend_scheme": "never"} if step.get("prepend_scheme") == "first" else step

    return document | {"pre_tokenizer": settled(document.get("pre_tokenizer"))}


def _begin_ids(engine: tokenizers.Tokenizer) -> tuple[int, ...]:
    """Return what the library puts before a text."""
    plain, whole = engine.encode("a", add_special_tokens=False).ids, engine.encode("a").ids
    surplus = len(whole) - len(plain)
    before = next(n for n in range(surplus + 1) if whole[n : n + len(plain)] == plain)
    return tuple(whole[:before])


def _starts(encoding: Any, texts: Sequence[str]) -> list[int]:
    """Return the token that holds the first character of each text, or the next that any token holds."""
    if len(texts) < 2:
        return [0] * len(texts)
    starts, place, length = [0], 0, sum(map(len, texts))
    for text in texts[:-1]:
        place += len(text)
        tokens = (encoding.char_to_token(char) for char in range(place, length))
        starts.append(next((t for t in tokens if t is not None), len(encoding)))
    return starts


def _identity(document: dict[str, Any], begin_ids: Sequence[int], end_id: int) -> str:
    """Return a hash of all that decides the tokens of a row, however the file is written."""
    model = dict(document["model"])
    if "merges" in model:  # in files of different ages, as "a b" and as ["a", "b"]
        model["merges"] = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    decides = {name: document.get(name) for name in DECIDES} | {"model": model}
    data = orjson.dumps([decides, list(begin_ids), end_id], option=orjson.OPT_SORT_KEYS)
    return f"{str(model.get('type', 'model')).lower()}-{xxhash.xxh3_128_hexdigest(data)[:12]}"
