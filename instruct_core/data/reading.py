"""
All rows of a source, read once: here one after another, or by processes that have a part each.

    ranges, seen = read_rows(source, columns=None, limit_rows=None, template=BY_HEADINGS)
    ranges, seen = read_rows(..., how=How(spread=in_forks, spool=spool))

Who spreads the work says in which processes; what is found is the same, down to the row that a message
names: a part begins at a line whose number is known, and what parts tell is taken in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from instruct_core.data.columns import Columns
from instruct_core.data.drafts import BLOCK_ROWS, Spool
from instruct_core.data.ranges import (
    Block,
    Ranges,
    cut_blocks,
    hashed_files,
    records_from,
    scan_ranges,
    stat_files,
)
from instruct_core.data.records import rows_worth_entering
from instruct_core.data.seen_rows import Notes, RowReader, SeenRows
from instruct_core.data.sources import Source
from instruct_core.data.split import Texts
from instruct_core.data.template import Template
from instruct_core.data.unread import ColumnCheck

WORTH_BYTES = 1 << 20  # of files: less is read before another process has begun

Read = Callable[[Block], Notes]


class Spread(Protocol):
    """Has several processes work."""

    def __call__(self, make: Callable[[int], Read], parts: Iterable[Block]) -> Iterator[Notes]:
        """
        Yield what was noted of parts, in their order.

        Args:
            make: Returns, in a process and for its number from 0, what reads a part.
            parts: Looked at while others are read. What it raises is raised behind what parts before
                it have to tell.
        """


class How(NamedTuple):
    """How a source is read."""

    spread: Spread | None = None
    """Has processes read parts; None reads all in this one."""
    spool: Spool | None = None
    """Keeps the tokens of the rows; None makes none."""
    loses: Callable[[str], bool] | None = None
    """Tells of a row's text whether tokens say all of it; None where they do."""


def read_rows(
    source: Source,
    columns: Columns | None,
    limit_rows: int | None,
    template: Template,
    texts: Texts | None = None,
    progress: Callable[[int], None] = lambda num_rows: None,
    how: How = How(),  # noqa: B008  a tuple
) -> tuple[Ranges, SeenRows]:
    """
    Read a source once; return where its blocks begin, and what was noted of its rows.

    Args:
        columns: Where the fields are; None detects it from the first hundred rows.
        limit_rows: Take only so many rows from the start.
        template: Writes the rows.
        texts: Takes what the rows say.
        progress: Called with the rows read so far.
        how: In which processes, and whether tokens are made on the way.

    Raises: As `ColumnCheck` and `scan_ranges` do.
    """
    check, spool = ColumnCheck(source, columns), how.spool

    def reader(number: int) -> RowReader:
        return RowReader(check, template, spool.writer(number) if spool else None, how.loses)

    seen = SeenRows(source, check, template, texts)
    is_small = sum(size for _, size, _ in stat_files(source.files)) < WORTH_BYTES
    if how.spread is None or is_small:
        ranges = _read_here(source, limit_rows, reader(0), seen, progress)
    else:
        ranges = _read_apart(source, limit_rows, reader, seen, progress, how.spread)
    if spool is not None:
        spool.drafts = seen.drafts
    return ranges, seen


def _read_here(
    source: Source,
    limit_rows: int | None,
    reader: RowReader,
    seen: SeenRows,
    progress: Callable[[int], None],
) -> Ranges:
    def end_block(num_rows: int) -> None:
        seen.add(reader.notes())
        progress(num_rows)

    ranges = scan_ranges(source, limit_rows, BLOCK_ROWS, reader.take, end_block)
    seen.add(reader.notes())
    return ranges


def _read_apart(
    source: Source,
    limit_rows: int | None,
    reader: Callable[[int], RowReader],
    seen: SeenRows,
    progress: Callable[[int], None],
    spread: Spread,
) -> Ranges:
    stats, starts = stat_files(source.files), []

    def parts() -> Iterator[Block]:
        begin, count, wanted = (0, 0, 0), 0, 0
        for start, num_rows in cut_blocks(source.files, BLOCK_ROWS, limit_rows):
            starts.append(start)
            if not count:
                begin, wanted = start, rows_worth_entering(source.files[start[0]])
            count += num_rows
            if count >= wanted:
                yield Block(begin, count)
                count = 0
        if count:
            yield Block(begin, count)

    def make(number: int) -> Read:
        mine = reader(number)

        def read(part: Block) -> Notes:
            for record in records_from(source.files, *part):
                mine.take(record)
            return mine.notes()

        return read

    for notes in spread(make, parts()):
        seen.add(notes)
        progress(seen.num_rows)
    return Ranges(hashed_files(source, stats), seen.num_rows, starts)
