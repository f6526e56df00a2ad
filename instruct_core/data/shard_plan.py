"""
The plan of a shard set: what goes into each shard.

    plan = scan(source, columns=None, limit_rows=None, skip_bad_rows=False)
    for row in plan.rows(shard=3): ...

One pass over the source, in constant memory, checks every row, hashes the files and notes where
each shard begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from instruct_core.data.columns import Columns, detect_columns, parse_columns
from instruct_core.data.order import sample_at
from instruct_core.data.plan import Plan
from instruct_core.data.ranges import SourceFile, Start, first_values, scan_ranges
from instruct_core.data.records import Record, format_of
from instruct_core.data.sources import Source
from instruct_core.data.template import TEMPLATE_NAME, Row
from instruct_core.data.tokenizer import TOKENIZER_NAME
from instruct_core.errors import BadRowError, ConfigError
from instruct_core.storage.documents import fingerprint_of

SPLIT_SEED = 42
VAL_FRACTION = 0.05
BLOCK_ROWS = 250  # shards are whole blocks; 64 shards or more from 16,000 rows on
MAX_BLOCKS_PER_SHARD = 40


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

    @property
    def choices(self) -> dict[str, Any]:
        """What decides the bytes of the shards, under the names a person knows it by."""
        return {
            "source": [f"{f.url.rsplit('/', 1)[-1]} (xxh3 {f.xxh3[:12]})" for f in self.files],
            "columns": self.columns,
            "limit_rows": self.limit_rows,
            "skip_bad_rows": self.skip_bad_rows,
            "template": self.template,
            "tokenizer": self.tokenizer,
        }

    @property
    def fingerprint(self) -> str:
        """A hash of the choices, with the whole hashes of the files, and of the split."""
        hashes = [(f.xxh3, f.bytes, format_of(f.url)) for f in self.files]
        split = [SPLIT_SEED, VAL_FRACTION, self.rows_per_shard, self.num_rows]
        return fingerprint_of([hashes, split, {**self.choices, "source": None}])

    def still_fits(
        self,
        source: Source,
        columns: Columns | None,
        limit_rows: int | None,
        skip_bad_rows: bool,
        rows_per_shard: int | None,
    ) -> bool:
        """Return True if `scan` would return this very plan, judged without reading rows."""
        rows_per_shard = rows_per_shard or default_rows_per_shard(self.num_rows)
        asked = (source.identity, limit_rows, skip_bad_rows, rows_per_shard)
        planned = (self.identity, self.limit_rows, self.skip_bad_rows, self.rows_per_shard)
        return (
            asked == planned
            and (columns is None or str(columns) == self.columns)
            and self.has_current_names
            and self.has_source(source.files)
        )

    def is_val(self, shard: int) -> NDArray[np.bool_]:
        """Return for each source row of a shard whether it belongs to the validation split."""
        first = shard * self.rows_per_shard
        rows = np.arange(first, min(first + self.rows_per_shard, self.num_rows), dtype=np.uint64)
        num_val = max(1, round(VAL_FRACTION * self.num_rows)) if self.num_rows > 1 else 0
        return sample_at(rows, self.num_rows, SPLIT_SEED) < num_val

    def rows(self, shard: int) -> Iterator[Row | None]:
        """
        Yield the rows of one shard in source order; None for a bad row that is skipped.

        Raises:
            BadRowError: The source is no longer what was planned with.
        """
        columns = parse_columns(self.columns)
        for record in self.records(shard, count=len(self.is_val(shard))):
            try:
                yield _to_row(record, columns)
            except ValueError as error:
                if not self.skip_bad_rows:
                    raise BadRowError(_bad_row(record.where, str(error))) from None
                yield None


def scan(
    source: Source,
    columns: Columns | None,
    limit_rows: int | None,
    skip_bad_rows: bool,
    rows_per_shard: int | None = None,
    progress: Callable[[int], None] = lambda num_rows: None,
) -> ShardPlan:
    """
    Read a source once and return its plan.

    Args:
        columns: Where the fields are; None detects it from the first hundred rows.
        limit_rows: Take only so many rows from the start.
        skip_bad_rows: List bad rows in the plan instead of raising.
        rows_per_shard: A multiple of 250; None takes `default_rows_per_shard`.
        progress: Called with the rows read so far, every block.

    Raises:
        BadRowError: A row is bad; names the first and counts the others.
        ConfigError: No row at all, or columns that are not known.
    """
    columns = columns or detect_columns(first_values(source.files))
    bad_rows: list[dict[str, str]] = []

    def check(record: Record) -> None:
        try:
            _to_row(record, columns)
        except ValueError as error:
            bad_rows.append({"where": record.where, "problem": str(error)})

    ranges = scan_ranges(source, limit_rows, BLOCK_ROWS, check, progress)
    _check_usable(source, ranges.num_rows, bad_rows, skip_bad_rows)
    rows_per_shard = rows_per_shard or default_rows_per_shard(ranges.num_rows)
    return ShardPlan(
        source=source.name,
        identity=source.identity,
        files=ranges.files,
        columns=str(columns),
        limit_rows=limit_rows,
        skip_bad_rows=skip_bad_rows,
        num_rows=ranges.num_rows,
        rows_per_shard=rows_per_shard,
        starts=ranges.starts[:: rows_per_shard // BLOCK_ROWS],
        bad_rows=bad_rows,
        template=TEMPLATE_NAME,
        tokenizer=TOKENIZER_NAME,
    )


def default_rows_per_shard(num_rows: int) -> int:
    """Return how many source rows go into a shard: a function of the source alone."""
    blocks = -(-num_rows // BLOCK_ROWS)
    return min(MAX_BLOCKS_PER_SHARD, max(1, blocks // 64)) * BLOCK_ROWS


def _to_row(record: Record, columns: Columns) -> Row:
    if record.problem:
        raise ValueError(record.problem)
    return columns.to_row(record.value)


def _check_usable(
    source: Source, num_rows: int, bad_rows: list[dict[str, str]], skip_bad_rows: bool
) -> None:
    if bad_rows and not skip_bad_rows:
        more = f" ({len(bad_rows) - 1} more bad rows follow)" if len(bad_rows) > 1 else ""
        raise BadRowError(_bad_row(bad_rows[0]["where"], bad_rows[0]["problem"], more))
    if len(bad_rows) == num_rows:
        raise ConfigError(f"Source {source.name} has no usable row: {num_rows} rows read.")


def _bad_row(where: str, problem: str, more: str = "") -> str:
    return f"Row {where} cannot be used: {problem}{more}. Fix it, or pass --skip-bad-rows."
