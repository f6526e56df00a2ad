"""
Rows of a .parquet file; a cursor's offset counts rows, and reading begins with their row group.

    for record in read_parquet(file, "rows.parquet", start=FIRST): ...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from instruct_core.data.record import Cursor, Cut, Record
from instruct_core.errors import BadRowError

BATCH_ROWS = 1024
ENTRIES_PER_GROUP = 16


def read_parquet(file: Any, url: str, start: Cursor) -> Iterator[Record]:
    """
    Yield the records of an open binary file from ``start`` on.

    Raises:
        BadRowError: The file is damaged, of another kind, or has a column twice.
    """
    import pyarrow as pa

    first_row = 0
    try:
        parquet, sizes = _opened(file)
        _check_names(url, parquet.schema_arrow.names)
        first_group = 0
        while first_group < len(sizes) and first_row + sizes[first_group] <= start.offset:
            first_row += sizes[first_group]
            first_group += 1
        groups = range(first_group, len(sizes))
        for batch in parquet.iter_batches(BATCH_ROWS, groups) if groups else ():
            begin = min(batch.num_rows, max(0, start.offset - first_row))
            first_row += begin
            for value, problem in _values(batch.slice(begin)):
                place = (url, first_row + 1, first_row + 1, first_row + 2)
                yield Record(*place, value=value, problem=problem, is_typed=True)
                first_row += 1
    except BadRowError:
        raise
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        _refuse(url, first_row, error)


def _values(batch: Any) -> Iterator[tuple[Any, str]]:
    """Yield the rows of a batch, each with what is wrong with it, which is nothing for most."""
    try:
        rows = batch.to_pylist()
    except (
        ValueError,
        OverflowError,
    ):  # one value that Python has no word for: the others are well
        yield from (_value(batch, row) for row in range(batch.num_rows))
        return
    yield from ((row, "") for row in rows)


def _value(batch: Any, row: int) -> tuple[Any, str]:
    value = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            value[name] = column[row].as_py()
        except (ValueError, OverflowError) as error:
            return None, f"column {name} cannot be read: {error}"
    return value, ""


def cut_parquet(file: Any, url: str, first: int, every: int) -> Iterator[Cut]:
    """Yield where rows end; see `read_cuts`. The file's own count of its rows is all that is read."""
    import pyarrow as pa

    try:
        left = sum(_opened(file)[1])
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        _refuse(url, 0, error)
    row, wanted = 0, first
    while left:
        count = min(left, wanted)
        row, left, wanted = row + count, left - count, every
        yield Cut(count, Cursor(row, row + 1))


def rows_at_once(file: Any) -> int:
    """Return how many rows are worth an entry into a file, which reads those before in their group."""
    return max(_opened(file)[1], default=0) // ENTRIES_PER_GROUP


def _opened(file: Any) -> tuple[Any, list[int]]:
    """Return an open file, and how many rows each of its groups has."""
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file, page_checksum_verification=True)
    return parquet, [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]


def _check_names(url: str, names: list[str]) -> None:
    """Refuse a column that stands twice, of which a row would have the last alone; BadRowError."""
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadRowError(
            f"Source {url} cannot be read: every column needs a name of its own, got {twice[0]!r} twice. "
            "Rename one."
        )


def _refuse(url: str, row: int, error: Exception) -> NoReturn:
    """Raise BadRowError where a file cannot be read on."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error  # of the disk or the store, which may pass
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    raise BadRowError(
        f"Source {url} is damaged behind row {row}, or no parquet file: {reason}. "
        "Make it again, or fetch it again."
    ) from error
