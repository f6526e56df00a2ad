"""
The plan of a shard set: what goes into each shard.

    plan = scan(source, columns=None, limit_rows=None, skip_bad_rows=False)
    for segments in plan.rows(shard=3): ...

One pass over the source checks every row, hashes the files, notes where each shard begins and draws
the rows to validate with. Of a row it keeps eight bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from instruct_core.data.alpaca import ALPACA_1
from instruct_core.data.columns import Columns, parse_columns
from instruct_core.data.drafts import BLOCK_ROWS, default_rows_per_shard
from instruct_core.data.encoder import GPT2S, Encoder, OwnTokenizer
from instruct_core.data.encoding import SPANS_FORMAT
from instruct_core.data.long_rows import LongRows
from instruct_core.data.order import sample_at
from instruct_core.data.plan import BEGUN, Plan
from instruct_core.data.ranges import SourceFile, Start
from instruct_core.data.reading import How, read_rows
from instruct_core.data.records import format_of, has_types
from instruct_core.data.seen_rows import bad_row
from instruct_core.data.sources import Source
from instruct_core.data.split import SPLIT_SEED, VAL_FRACTION, Texts, are_between, in_validation
from instruct_core.data.template import Segment, Template
from instruct_core.data.templates import BY_HEADINGS, names_of
from instruct_core.data.unread import chat_of
from instruct_core.errors import BadRowError, ConfigError
from instruct_core.storage.documents import fingerprint_of

BY_PLACE = "place-1"  # rows to validate with were drawn by their number, in plans of format 1
BY_TEXT = "text-1"
FORMAT_2_KEYS = {"split", "val_hashes", "num_duplicates", "more_bad_rows", "refused", "unread"}
# Written where there is something to say.
OPTIONAL_KEYS = (
    "own_tokenizer", "val_rows", "num_markers", "num_filled", "num_text_calls", "num_lossy",
    "unwritten",
)  # fmt: skip
FORMAT_3_KEYS = {"template_typed", "template_text", "long_rows", "num_open_ends", "num_open_starts"}


@dataclass(frozen=True)
class ShardPlan(Plan):
    """All that decides the bytes of the shards; see the module's page."""

    part: ClassVar[str] = "shard"
    remedy: ClassVar[str] = "Run the same preprocess command again."

    source: str
    identity: str
    files: list[SourceFile]
    columns: str
    limit_rows: int | None
    skip_bad_rows: bool
    num_rows: int
    rows_per_shard: int
    starts: list[Start]
    bad_rows: list[dict[str, str]]
    template: str
    tokenizer: str
    # From here on: what format 2 has besides.
    split: str = BY_PLACE
    val_hashes: list[str] = field(default_factory=list)
    num_duplicates: int = 0
    more_bad_rows: int = 0  # than are listed
    refused: list[str] = field(default_factory=list)  # columns that must be empty
    unread: list[str] = field(default_factory=list)
    own_tokenizer: OwnTokenizer | None = None  # None for GPT-2's
    val_rows: int | None = None  # to validate with, where that was said
    num_markers: int | None = None  # rows whose text has a marker of a picture or sound, if any
    num_filled: int | None = None  # rows without what the types of their file filled in; None: kept
    num_text_calls: int | None = None  # rows with calls of tools that stand in a text, if any
    num_lossy: int | None = None  # rows with characters that the tokenizer has no token for, if any
    unwritten: dict[str, int] | None = None  # rows that lose words to the template, by whose
    # From here on: what format 3 has besides.
    template_typed: str = "alpaca"  # as it was given
    long_rows: LongRows = "cut"  # what becomes of rows that are longer than a sequence
    template_text: str = ""  # of a template that is no part of the code
    num_open_ends: int = 0  # chats whose last turns, which nobody answers, were left out
    num_open_starts: int = 0  # chats whose first answers, which nobody asked for, were left out

    @property
    def format(self) -> int:
        """The format of its file, and of the manifest."""
        if self.template != ALPACA_1 or self.long_rows != "cut":
            return SPANS_FORMAT
        return 1 if self.split == BY_PLACE else 2

    @property
    def rendering(self) -> dict[str, Any]:
        """What format 3 says of how rows were written, as JSON values."""
        return {name: value for name, value in vars(self).items() if name in FORMAT_3_KEYS}

    @property
    def may_end_once(self) -> bool:
        """Whether it is of a version that learnt the last answer of a chat alone."""
        return self.format < SPANS_FORMAT and bool(parse_columns(self.columns).messages)

    @property
    def may_have_fill(self) -> bool:
        """Whether it is of a version that learnt null for keys that only other rows have."""
        return self.num_filled is None and has_types(self.urls)

    @property
    def num_bad_rows(self) -> int:
        """How many rows are left out."""
        return len(self.bad_rows) + self.more_bad_rows

    @property
    def choices(self) -> dict[str, Any]:
        """What decides the bytes of the shards, under the names a person knows it by."""
        return {
            "source": [f"{f.url.rsplit('/', 1)[-1]} (xxh3 {f.xxh3[:12]})" for f in self.files],
            "columns": self.columns,
            "limit_rows": self.limit_rows,
            "skip_bad_rows": self.skip_bad_rows,
            "template": self.template,
            "long_rows": self.long_rows,
            "tokenizer": self.tokenizer,
            "split": self.split,
            "refused": self.refused,
            "val_rows": self.val_rows,
            "null_keys": "left out" if self.num_filled else "kept",
            "text_calls": "read" if self.num_text_calls else "kept",
        }

    @property
    def mixture(self) -> list[dict[str, Any]]:
        """What the manifest says of sources with weights; nothing of one source."""
        return []

    @property
    def fingerprint(self) -> str:
        """A hash of the choices, with the whole hashes of the files, and of the split."""
        hashes = [(f.xxh3, f.bytes, format_of(f.url)) for f in self.files]
        split = [SPLIT_SEED, VAL_FRACTION, self.rows_per_shard, self.num_rows]
        choices = {**self.choices, "source": None}
        if self.format == 1:
            del choices["split"], choices["refused"]
        # Plans of before there was such a choice have no word for it.
        usual = {"long_rows": "cut", "val_rows": None, "null_keys": "kept", "text_calls": "kept"}
        choices = {name: v for name, v in choices.items() if (name, v) not in usual.items()}
        return fingerprint_of([hashes, split, choices])

    def to_document(self) -> dict[str, Any]:
        """Return the plan as JSON values, in the format that it was begun with."""
        document = super().to_document()
        later = FORMAT_3_KEYS if self.format < SPANS_FORMAT else set[str]()
        later = later | FORMAT_2_KEYS if self.format == 1 else later
        later = later | {name for name in OPTIONAL_KEYS if getattr(self, name) is None}
        return {k: v for k, v in document.items() if k not in later} | {"format": self.format}

    def still_fits(
        self,
        source: Source,
        columns: Columns | None,
        limit_rows: int | None,
        skip_bad_rows: bool,
        rows_per_shard: int | None,
        template: Template = BY_HEADINGS,
        encoder: Encoder = GPT2S,
        long_rows: LongRows = "cut",
        val_rows: int | None = None,
    ) -> bool:
        """
        Return True if `scan` would return this very plan, judged without reading rows.

        One of an earlier format goes on as it was begun, where the rest is the same.
        """
        rows_per_shard = rows_per_shard or default_rows_per_shard(self.num_rows)
        asked = (source.identity, limit_rows, skip_bad_rows, rows_per_shard)
        planned = (self.identity, self.limit_rows, self.skip_bad_rows, self.rows_per_shard)
        return (
            asked == planned
            and (long_rows, val_rows) == (self.long_rows, self.val_rows)
            and (columns is None or (str(columns) == self.columns and not self.refused))
            and self.tokenizer == encoder.identity
            and self.template in names_of(template)
            and self.has_source(source.files)
        )

    def is_val(self, shard: int, texts: Sequence[str | None]) -> NDArray[np.bool_]:
        """
        Return for each source row of a shard whether it belongs to the validation split.

        Args:
            texts: What each row becomes; None for one that is skipped.
        """
        if self.split == BY_TEXT:
            return in_validation(texts, self.val_hashes)
        rows = np.uint64(shard * self.rows_per_shard) + np.arange(len(texts), dtype=np.uint64)
        num_val = max(1, round(VAL_FRACTION * self.num_rows)) if self.num_rows > 1 else 0
        return sample_at(rows, self.num_rows, SPLIT_SEED) < num_val

    def blocks(self, shard: int) -> tuple[int, int, int]:
        """Return of which source a shard is, which of its blocks is the first, and how many there are."""
        num_blocks = self.rows_per_shard // BLOCK_ROWS
        return 0, shard * num_blocks, num_blocks

    def chosen(
        self,
        shard: int,  # noqa: ARG002  of a mixture it says which source
        hashes: NDArray[np.uint64],
    ) -> dict[str, NDArray[np.bool_]]:
        """Return for each split which good rows of a shard are in it, by the hashes of their texts."""
        is_val = are_between(hashes, self.val_hashes)
        return {"train": ~is_val, "val": is_val}

    def rows(self, shard: int, template: Template) -> Iterator[list[Segment] | None]:
        """
        Yield the rows of one shard as segments, in source order; None for a bad row that is skipped.

        Args:
            shard: Which.
            template: `template_of` the plan's name and text.

        Raises:
            BadRowError: The source is no longer what was planned with.
            ConfigError: It was planned with a version that wrote chats in another way.
        """
        if self.may_end_once:
            raise ConfigError(BEGUN.format("learnt the last answer of a chat alone"))
        columns = parse_columns(self.columns)
        count = min(self.rows_per_shard, self.num_rows - shard * self.rows_per_shard)
        for record in self.records(shard, count):
            try:
                chat = chat_of(record, columns, self.refused)
                row = template.segments(chat.turns)
            except ValueError as error:
                if not self.skip_bad_rows:
                    raise BadRowError(bad_row(record.where, str(error))) from None
                yield None
                continue
            if chat.had_fill and self.may_have_fill:
                raise ConfigError(BEGUN.format("learnt null for keys that only other rows have"))
            if chat.had_text_calls and not self.num_text_calls:
                raise ConfigError(BEGUN.format("learnt calls that stand in a text as they stand"))
            yield row


def scan(
    source: Source,
    columns: Columns | None,
    limit_rows: int | None,
    skip_bad_rows: bool,
    rows_per_shard: int | None = None,
    template: Template = BY_HEADINGS,
    progress: Callable[[int], None] = lambda num_rows: None,
    encoder: Encoder = GPT2S,
    val_rows: int | None = None,
    texts: Texts | None = None,
    how: How = How(),  # noqa: B008  a tuple
) -> ShardPlan:
    """
    Read a source once and return its plan.

    Args:
        columns: Where the fields are; None detects it from the first hundred rows.
        limit_rows: Take only so many rows from the start.
        skip_bad_rows: Count bad rows and list the first, instead of raising.
        rows_per_shard: A multiple of 250; None takes `default_rows_per_shard`.
        template, encoder: How rows are written, and what will make tokens of them.
        progress: Called with the rows read so far, every block.
        val_rows: How many validate; None for 5 %.
        texts: Takes what the rows say, for who compares sources.
        how: In which processes rows are read, and whether tokens are made on the way.

    Raises: See `read_rows` and `SeenRows`.
    """
    ranges, seen = read_rows(source, columns, limit_rows, template, texts, progress, how)
    seen.check_usable(skip_bad_rows)
    rows_per_shard = rows_per_shard or default_rows_per_shard(ranges.num_rows)
    drawn = seen.texts.draw(val_rows)
    return ShardPlan(
        source=source.name,
        identity=source.identity,
        files=ranges.files,
        limit_rows=limit_rows,
        skip_bad_rows=skip_bad_rows,
        num_rows=ranges.num_rows,
        rows_per_shard=rows_per_shard,
        starts=ranges.starts[:: rows_per_shard // BLOCK_ROWS],
        tokenizer=encoder.identity,
        split=BY_TEXT,
        val_hashes=drawn.hashes,
        num_duplicates=drawn.num_duplicates,
        own_tokenizer=encoder.own,
        val_rows=val_rows,
        **seen.facts,
    )
