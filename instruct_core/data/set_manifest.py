"""
What a finished shard set says of itself: its manifest, the last file that is written.

    manifest = load_manifest(Store("shards/alpaca"))
    manifest.fingerprint, manifest.files("train")[0].rows

Each version wrote some fields more than the one before; what a set does not have is None, and is not
written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cattrs

from instruct_core.converter import structure
from instruct_core.data.encoder import OwnTokenizer
from instruct_core.data.encoding import SPANS_FORMAT
from instruct_core.data.long_rows import LongRows
from instruct_core.data.remake import command_that_makes
from instruct_core.errors import CorruptFileError, MissingError
from instruct_core.storage.documents import load_sealed, seal
from instruct_core.storage.store import Store

if TYPE_CHECKING:  # who reads a set loads nothing that only makes one
    from instruct_core.data.shard_plan import ShardPlan

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ShardFile:
    """A file of a shard set."""

    file: str
    rows: int
    tokens: int
    bytes: int
    xxh3: str


@dataclass(frozen=True)
class MixedSource:
    """One of several sources with weights: the next so many shards are of it."""

    source: str
    weight: float
    shards: int


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """What is in a shard set; the fields stand in the file in this order, and None is left out."""

    format: int
    fingerprint: str
    source: str
    source_rows: int
    columns: str
    template: str
    tokenizer: str
    train_rows: int
    train_tokens: int
    val_rows: int
    val_tokens: int
    split: str | None = None
    unread: list[str] | None = None
    num_duplicates: int | None = None
    own_tokenizer: OwnTokenizer | None = None  # None for GPT-2's
    template_typed: str | None = None
    long_rows: LongRows | None = None  # None where they are cut
    template_text: str | None = None
    num_open_ends: int | None = None
    num_open_starts: int | None = None
    mixture: list[MixedSource] | None = None
    train: list[ShardFile]
    val: list[ShardFile]
    num_bad_rows: int
    bad_rows: list[dict[str, str]]

    def files(self, split: str) -> Sequence[ShardFile]:
        """The files of a split, in the order of their rows."""
        return self.train if split == "train" else self.val

    @property
    def data(self) -> bytes:
        """The content of the file."""
        document = cattrs.unstructure(self)
        return seal({name: value for name, value in document.items() if value is not None})


def manifest_of(plan: ShardPlan, train: list[ShardFile], val: list[ShardFile]) -> ShardManifest:
    """Return the manifest of a plan's files, in the format that the plan was begun with."""
    later: dict[str, Any] = {}
    if plan.format > 1:
        later = {name: getattr(plan, name) for name in ("split", "unread", "num_duplicates")}
    if plan.format >= SPANS_FORMAT:
        later |= plan.rendering
    return ShardManifest(
        format=plan.format,
        fingerprint=plan.fingerprint,
        source=plan.identity,
        source_rows=plan.num_rows,
        columns=plan.columns,
        template=plan.template,
        tokenizer=plan.tokenizer,
        train_rows=sum(file.rows for file in train),
        train_tokens=sum(file.tokens for file in train),
        val_rows=sum(file.rows for file in val),
        val_tokens=sum(file.tokens for file in val),
        own_tokenizer=plan.own_tokenizer,
        mixture=[MixedSource(**part) for part in plan.mixture] or None,
        train=train,
        val=val,
        num_bad_rows=plan.num_bad_rows,
        bad_rows=plan.bad_rows,
        **later,
    )


def load_manifest(store: Store) -> ShardManifest:
    """
    Return the manifest of a complete shard set.

    Raises:
        MissingError: There is none: the set was never made, or is not finished.
        CorruptFileError: It is no manifest.
    """
    make = f"Make it: {command_that_makes(store)}"
    problem = f"{store.where(MANIFEST)} is no manifest of shards"
    try:
        return structure(load_sealed(store, MANIFEST), ShardManifest, problem)
    except FileNotFoundError:
        raise MissingError(
            f"Shards {store.url} are not there or not finished: no {MANIFEST}. {make}"
        ) from None
    except CorruptFileError as error:
        raise CorruptFileError(f"{error} {make}") from error
