"""
Rows packed into sequences of seq_len tokens, so that no step computes on padding.

    packing = load_packing(store, rows, "train", seq_len=1024, seed=1337)
    packing.num_sequences, packing.filled          # 147, 0.991

Whole rows go together in an order drawn from the seed, each into the fullest sequence that still
has room (best fit). What becomes of longer rows, see long_rows.py. Longest first would fill a
little more, and put rows of a kind together, which a model learns from less well: see
docs/quality.md. The packing is a pure function of the lengths, seq_len and seed, 16 bytes a row,
and is cached beside the shards: planning a million rows takes seconds, reading the plan back takes
milliseconds.

Sources: Johnson 1973, "Near-optimal bin packing algorithms" (the bound); Krell et al. 2021,
arXiv 2107.02027 (packing without cross-contamination: attention stays inside a row).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from instruct_core.config import PACKING
from instruct_core.data.long_rows import LongRows, pieces_of
from instruct_core.data.mixture import Share
from instruct_core.data.order import sample_at
from instruct_core.data.shards import ShardSet
from instruct_core.errors import ConfigError, CorruptFileError
from instruct_core.storage.store import Store
from instruct_core.storage.tensor_file import file_views, from_numpy, hash_arrays, parse_header

logger = logging.getLogger(__name__)

# Sequences are read in the order of the seed itself. With the same key here the two would cancel where
# no two rows share a sequence: the first epoch would then go through the source from top to bottom.
ORDER_KEY = 0x7061636B696E67


class Packing(NamedTuple):
    """
    Which pieces of which rows make each sequence.

    Sequence ``s`` holds pieces ``sequence_starts[s]`` to ``sequence_starts[s + 1]``; piece ``p``
    is ``lengths[p]`` tokens of row ``rows[p]`` from its token ``starts[p]`` on.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int32]
    lengths: NDArray[np.int32]
    sequence_starts: NDArray[np.int64]
    seq_len: int

    @property
    def num_sequences(self) -> int:
        return len(self.sequence_starts) - 1

    @property
    def filled(self) -> float:
        """Share of all places that hold a token, 0..1."""
        return float(self.lengths.sum() / max(1, self.num_sequences * self.seq_len))


def pack(
    lengths: NDArray[np.int64], seq_len: int, seed: int, long_rows: LongRows = "cut"
) -> Packing:
    """
    Return the packing of rows of the given lengths, in tokens.

    Their order is drawn from ``seed``, so that rows of like length, and neighbours in the source,
    do not meet in one sequence more often than others.
    """
    rows, starts, pieces = pieces_of(lengths, seq_len, long_rows)
    places = np.arange(len(rows), dtype=np.uint64)
    order = np.argsort(sample_at(places, max(1, len(rows)), seed ^ ORDER_KEY))
    sequence_of = np.empty(len(rows), dtype=np.int64)
    with_room: list[list[int]] = [[] for _ in range(seq_len + 1)]  # by free tokens
    rooms = 0  # bit r is set where a sequence has exactly r free tokens
    num_sequences = 0
    for piece, length in zip(order.tolist(), pieces[order].tolist(), strict=True):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            sequence = with_room[room].pop()
            if not with_room[room]:
                rooms &= ~(1 << room)
        else:
            room, sequence = seq_len, num_sequences
            num_sequences += 1
        sequence_of[piece] = sequence
        with_room[room - length].append(sequence)
        rooms |= 1 << (room - length)
    by_sequence = order[np.argsort(sequence_of[order], kind="stable")]
    counts = np.bincount(sequence_of, minlength=num_sequences)
    return Packing(
        rows[by_sequence],
        starts[by_sequence].astype(np.int32),
        pieces[by_sequence].astype(np.int32),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)]),
        seq_len,
    )


def pack_groups(
    lengths: NDArray[np.int64],
    groups: Sequence[int],
    seq_len: int,
    seed: int,
    long_rows: LongRows = "cut",
) -> Packing:
    """
    Return the packing of rows of which only those of a group may meet in a sequence.

    Args:
        lengths: Of all rows, in tokens.
        groups: How many rows each group has, one after another; none lets all rows meet.
    """
    ends = np.cumsum(groups or [len(lengths)])
    parts = [
        (begin, pack(lengths[begin:end], seq_len, seed, long_rows))
        for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
    ]
    before = np.cumsum([0, *(len(part.rows) for _, part in parts)])
    starts = [part.sequence_starts[:-1] + n for (_, part), n in zip(parts, before, strict=False)]
    return Packing(
        np.concatenate([part.rows + begin for begin, part in parts]),
        np.concatenate([part.starts for _, part in parts]),
        np.concatenate([part.lengths for _, part in parts]),
        np.concatenate([*starts, before[-1:]]).astype(np.int64),
        seq_len,
    )


def packing_of(rows: ShardSet, seq_len: int, seed: int) -> Packing:
    """Return the packing of a split, in which rows of sources with weights do not meet."""
    groups = [count for count, _ in rows.groups]
    return pack_groups(rows.lengths(), groups, seq_len, seed, rows.long_rows)


def shares_of(packing: Packing, groups: Sequence[tuple[int, float]]) -> list[Share]:
    """Return how many sequences each group of rows has, and its weight; see mixture.py."""
    first_rows = packing.rows[packing.sequence_starts[:-1]]
    ends = np.cumsum([count for count, _ in groups])
    counts = np.bincount(np.searchsorted(ends, first_rows, side="right"), minlength=len(groups))
    return [Share(int(count), weight) for count, (_, weight) in zip(counts, groups, strict=True)]


def load_packing(
    store: Store, rows: ShardSet, split: str, fingerprint: str, seq_len: int, seed: int
) -> Packing:
    """
    Return the packing of a split from its cache, or plan it and cache it where that is allowed.

    Raises:
        ConfigError: No row fits into a sequence, and those that do not are dropped.
    """
    name = f"packing/{split}-{seq_len}-{seed}.safetensors"
    try:
        return _read(store, name, fingerprint, seq_len)
    except (FileNotFoundError, CorruptFileError):
        packing = packing_of(rows, seq_len, seed)
    if len(rows) and not packing.num_sequences:
        raise ConfigError(
            f"--seq-len must be longer: all {len(rows):,} rows of {store.where(split)} have more than "
            f"{seq_len} tokens, and the shards drop such rows (--long-rows drop)."
        )
    try:
        _write(store, name, fingerprint, packing)
    except OSError as error:
        logger.warning("Packing %s is not cached: %s", store.where(name), error)
    return packing


def _read(store: Store, name: str, fingerprint: str, seq_len: int) -> Packing:
    data = store.read(name)
    places, metadata = parse_header(data, store.where(name))
    arrays = {key: place.view(data) for key, place in places.items()}
    if metadata != _metadata(fingerprint, hash_arrays(arrays)):
        raise CorruptFileError(
            f"Packing {store.where(name)} belongs to other shards or another way, or is damaged."
        )
    return Packing(**arrays, seq_len=seq_len)


def _write(store: Store, name: str, fingerprint: str, packing: Packing) -> None:
    arrays = {key: array for key, array in packing._asdict().items() if key != "seq_len"}
    metadata = _metadata(fingerprint, hash_arrays(arrays))
    tensors = {key: from_numpy(array) for key, array in arrays.items()}
    store.replace(name, b"".join(file_views(tensors, metadata)))


def _metadata(fingerprint: str, xxh3: str) -> dict[str, str]:
    return {"fingerprint": fingerprint, "packing": PACKING, "xxh3": xxh3}
