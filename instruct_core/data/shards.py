"""
Tokens on disk: one safetensors file per fixed range of source rows and split.

    write_shard(store, plan, shard=3)            # train/00003.safetensors and val/00003.safetensors
    write_manifest(store, plan)                  # last: now the set is complete
    rows = ShardSet(Store("shards/alpaca"), "train")
    rows.tokens(12, 0, 40)                       # the first 40 tokens of row 12, read from disk

A file holds `tokens` (all rows one after another; uint16, or uint32 for a vocabulary of more than
65,536), `offsets` (int64, rows + 1) and which tokens are learnt as a response: `spans` (uint32) with
`span_offsets` (int64, rows + 1), or, in sets of format 1 and 2, `response_starts` (uint32, per row:
from there to its end). It carries the fingerprint of its plan and a hash of its tensors, so a file that
is there can be told from one that is right; the manifest then names every file with its size and hash.
Where the tokenizer is not GPT-2's, its files lie in `tokenizer/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from instruct_core.data.encoding import SPANS_FORMAT, Encoded, encode
from instruct_core.data.gpt2_tokenizer import END_OF_TEXT_ID, VOCAB_SIZE
from instruct_core.data.long_rows import LongRows
from instruct_core.data.order import sample_at
from instruct_core.data.set_manifest import (
    MANIFEST,
    MixedSource,
    ShardFile,
    ShardManifest,
    load_manifest,
    manifest_of,
)
from instruct_core.data.template import Template, text_of
from instruct_core.data.templates import template_of
from instruct_core.data.tokenizer import Tokenizer, load_tokenizer
from instruct_core.data.tokenizer_files import GPT2, TOKENIZER_FOLDER
from instruct_core.data.verified_file import Column, VerifiedFiles
from instruct_core.errors import CorruptFileError, MissingError
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import file_views, from_numpy, hash_arrays, parse_header

if TYPE_CHECKING:  # a rank reads shards, and loads nothing that only makes them
    from instruct_core.data.shard_plan import ShardPlan

Masks = Mapping[str, NDArray[np.bool_]]
SPLITS = ("train", "val")
DRAW_SEED = 42  # of the rows that samples show


def shard_name(split: str, shard: int) -> str:
    """Return a shard's file name inside its set."""
    return f"{split}/{shard:05d}.safetensors"


def write_shard(store: Store, plan: ShardPlan, shard: int, tokenizer: Tokenizer) -> None:
    """Tokenize one range of source rows and write both of its files, each whole or not at all."""
    template = template_of(plan.template, plan.template_text, tokenizer)
    rows = list(plan.rows(shard, template))
    texts = [None if row is None else text_of(row) for row in rows]
    good = [row for row in rows if row is not None]
    is_val = plan.is_val(shard, texts)[[row is not None for row in rows]]
    write_rows(store, plan, shard, encode(good, tokenizer), {"train": ~is_val, "val": is_val})


def write_rows(store: Store, plan: ShardPlan, shard: int, rows: Encoded, chosen: Masks) -> None:
    """Write both files of a shard, each whole or not at all: for each split, which rows are in it."""
    for split in SPLITS:
        arrays = _arrays(rows, chosen[split], plan.format)
        metadata = _metadata(plan, split, shard) | {"payload_xxh3": hash_arrays(arrays)}
        views = file_views({name: from_numpy(a) for name, a in arrays.items()}, metadata)
        store.replace(shard_name(split, shard), b"".join(views))


def _arrays(rows: Encoded, chosen: NDArray[np.bool_], format: int) -> dict[str, NDArray[Any]]:
    """Return the tensors of the chosen rows."""
    lengths, num_spans = np.diff(rows.offsets), np.diff(rows.span_offsets)
    arrays: dict[str, NDArray[Any]] = {
        "tokens": rows.tokens[np.repeat(chosen, lengths)],
        "offsets": _sums(lengths[chosen]),
    }
    spans = rows.spans[np.repeat(chosen, num_spans)].astype(np.uint32)
    if format < SPANS_FORMAT:
        return arrays | {"response_starts": spans[:, 0]}
    return arrays | {"spans": spans, "span_offsets": _sums(num_spans[chosen])}


def _sums(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _metadata(plan: ShardPlan, split: str, shard: int) -> dict[str, str]:
    # Shards of the first two formats are alike.
    shard_format = str(plan.format if plan.format >= SPANS_FORMAT else 1)
    return {
        "format": shard_format, "fingerprint": plan.fingerprint, "split": split, "shard": str(shard)
    }  # fmt: skip


def is_written(store: Store, plan: ShardPlan, shard: int) -> bool:
    """Return True if both files of a shard are there and hold what this plan put into them."""
    return all(_entry(store, plan, split, shard) for split in SPLITS)


def _entry(store: Store, plan: ShardPlan, split: str, shard: int) -> ShardFile | None:
    """Return a file's line of the manifest; None unless it is there and verifies."""
    name = shard_name(split, shard)
    try:
        data = store.read(name)
        places, metadata = parse_header(data, name)
    except (FileNotFoundError, CorruptFileError):
        return None
    arrays = {key: place.view(data) for key, place in places.items()}
    if metadata != _metadata(plan, split, shard) | {"payload_xxh3": hash_arrays(arrays)}:
        return None
    rows, tokens = len(arrays["offsets"]) - 1, len(arrays["tokens"])
    return ShardFile(name, rows, tokens, len(data), xxhash.xxh3_128_hexdigest(data))


def missing_shards(store: Store, plan: ShardPlan) -> list[int]:
    """Return the shards of which a file is not there, by name alone."""
    there = [set(store.names(split)) for split in SPLITS]
    return [
        k
        for k in range(plan.num_parts)
        if any(f"{k:05d}.safetensors" not in names for names in there)
    ]


def write_manifest(store: Store, plan: ShardPlan) -> bool:
    """Verify every shard and write the document that completes the set; False if one is not right."""
    found = {
        split: [_entry(store, plan, split, k) for k in range(plan.num_parts)] for split in SPLITS
    }
    files = {split: [entry for entry in entries if entry] for split, entries in found.items()}
    if files != found:
        return False
    store.replace(MANIFEST, manifest_of(plan, **files).data)
    for split in SPLITS:
        for name in store.names(split):
            if name.startswith("."):  # begun by a task that was killed
                store.remove(f"{split}/{name}")
    return True


def is_complete(store: Store, plan: ShardPlan) -> bool:
    """Return True if the manifest is there and of this plan."""
    try:
        return load_manifest(store).fingerprint == plan.fingerprint
    except (MissingError, CorruptFileError):
        return False


class ShardSet:
    """
    All rows of one split, read from disk; a shard is hashed when it is first opened.

    Args:
        store: A finished shard set. One that is not on this machine is fetched file by file.
        split: "train" or "val".
        manifest: Its manifest, when it was read already.

    Attributes:
        end_id: The token that ends a row.
        vocab_size: Of the tokenizer.

    Raises:
        MissingError: The set is not finished.
    """

    def __init__(self, store: Store, split: str, manifest: ShardManifest | None = None) -> None:
        manifest = manifest or load_manifest(store)
        self._store, self._entries = store, manifest.files(split)
        own = manifest.own_tokenizer
        self._has_own, self.end_id = own is not None, own.end_id if own else END_OF_TEXT_ID
        self._written = manifest.template, manifest.template_text or ""
        self.long_rows: LongRows = manifest.long_rows or "cut"
        self.vocab_size = own.vocab_size if own else VOCAB_SIZE
        self._first_rows = np.cumsum([0, *(entry.rows for entry in self._entries)])
        mixture = manifest.mixture or [] if split == "train" else []
        self.groups, self.sources = self._groups(mixture), [part.source for part in mixture]
        self._files = VerifiedFiles(store, self._entries)

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    def _groups(self, mixture: Sequence[MixedSource]) -> list[tuple[int, float]]:
        """Return how many rows each source has that is read at a pace of its own, and its weight."""
        entries = iter(self._entries)
        counts = [sum(next(entries).rows for _ in range(part.shards)) for part in mixture]
        return [(rows, part.weight) for rows, part in zip(counts, mixture, strict=True)]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What encoded the rows."""
        return load_tokenizer(self._store.where(TOKENIZER_FOLDER) if self._has_own else GPT2)

    @cached_property
    def template(self) -> Template:
        """What wrote the rows."""
        return template_of(*self._written, self.tokenizer)

    def drawn(self, count: int) -> list[int]:
        """Return rows of all over the split, the same ones each time; fewer where there are fewer."""
        places = np.arange(min(count, len(self)), dtype=np.uint64)
        return [int(row) for row in sample_at(places, max(1, len(self)), DRAW_SEED)]

    def tokens(self, row: int, start: int, length: int) -> NDArray[Any]:
        """Return ``length`` tokens of a row from token ``start`` on; fewer at the row's end."""
        columns, local = self._locate(row)
        begin, end = columns["offsets"].rows(local, local + 2).tolist()
        first = min(begin + start, end)
        return columns["tokens"].rows(first, min(first + length, end))

    def spans(self, row: int) -> NDArray[np.int64]:
        """Return the tokens of a row that are its responses: from, to. (spans, 2)"""
        columns, local = self._locate(row)
        if "spans" in columns:
            first, last = columns["span_offsets"].rows(local, local + 2).tolist()
            return columns["spans"].rows(first, last).astype(np.int64)
        begin, end = columns["offsets"].rows(local, local + 2).tolist()
        [response] = columns["response_starts"].rows(local, local + 1).tolist()
        return np.array([[response, end - begin]], np.int64)

    def num_response_tokens(self) -> int:
        """Return how many tokens of all rows are responses; opens every shard once."""
        total = 0
        for columns in map(self._files.columns, range(len(self._entries))):
            if "spans" in columns:
                total += int(np.diff(columns["spans"].rows().astype(np.int64)).sum())
            else:
                total += len(columns["tokens"]) - int(columns["response_starts"].rows().sum())
        return total

    def lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens of every row; opens every shard once."""
        shards = range(len(self._entries))
        parts = [np.diff(self._files.columns(shard)["offsets"].rows()) for shard in shards]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def _locate(self, row: int) -> tuple[dict[str, Column], int]:
        shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return self._files.columns(shard), row - int(self._first_rows[shard])
