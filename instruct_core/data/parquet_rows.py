"""
Rows of a .parquet file; a cursor's offset counts rows, and reading begins with their row group.

    for record in read_parquet(file, "rows.parquet", start=FIRST): ...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from instruct_core.data.record import Cursor, Record
from instruct_core.errors import BadRowError

BATCH_ROWS = 1024


def read_parquet(file: Any, url: str, start: Cursor) -> Iterator[Record]:
    """
    Yield the records of an open binary file from ``start`` on.

    Raises:
        BadRowError: The file is damaged, or of another kind.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    first_row = 0
    try:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        first_group = 0
        while first_group < len(sizes) and first_row + sizes[first_group] <= start.offset:
            first_row += sizes[first_group]
            first_group += 1
        groups = range(first_group, len(sizes))
        for batch in parquet.iter_batches(BATCH_ROWS, groups) if groups else ():
            for value in batch.to_pylist():
                if first_row >= start.offset:
                    cursor = Cursor(first_row + 1, first_row + 2)
                    yield Record(url, first_row + 1, cursor, value=value)
                first_row += 1
    except (pa.ArrowException, ValueError, OverflowError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk or the store, which may pass
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise BadRowError(
            f"Source {url} is damaged behind row {first_row}, or no parquet file: {reason}. "
            "Make it again, or fetch it again."
        ) from error
