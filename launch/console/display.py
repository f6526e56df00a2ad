"""
Tables, and progress bars on a terminal; nothing moves where the output goes to a file.

    show_table(table)
    with progress_bar("Shards") as bar:
        task = bar.add_task("", total=15)
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from launch.console.lines import one_line, say, say_whole

LONGEST_SECONDS = 100 * 365.25 * 86400  # that anybody is told
LONGEST_CELL = 1000  # characters
WIDE = 10_000  # columns where there is no terminal: a row is a line for programs then

console = Console(stderr=True)


def progress_bar(what: str, *columns: ProgressColumn) -> Progress:
    """Return a bar that counts to a total, with further columns before the remaining time."""
    return Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def show_table(table: Table) -> None:
    """
    Print a table: one long line a row where a program reads it, else as wide as the terminal.

    Where the terminal is too narrow, a row becomes a few lines: its first cell, and the others with
    their titles.
    """
    # Cells are anybody's text: no character of them is markup, or ends a line.
    table = _plain(table)
    shown = Console(markup=False, highlight=False)
    if not shown.is_terminal:
        _show_lines(table)
    elif (
        table.columns
        and Measurement.get(shown, shown.options.update(max_width=WIDE), table).maximum
        > shown.width
    ):
        for line in _cards(table, shown.width):
            say(line)
    else:
        shown.print(table)


def _plain(table: Table) -> Table:
    """Return a table whose cells are each one line of no more than a screen."""
    plain = Table(*(str(column.header) for column in table.columns), box=table.box)
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        plain.add_row(*(one_line(str(cell), LONGEST_CELL) for cell in cells))
    return plain


def _show_lines(table: Table) -> None:
    if table.box is None:  # rich takes a second for a thousand rows
        columns = [[str(c.header), *map(str, c.cells)] for c in table.columns]
        widths = [max(map(cell_len, column)) for column in columns]
        for row in zip(*columns, strict=True):
            cells = (set_cell_size(cell, w) for cell, w in zip(row, widths, strict=True))
            say_whole(f" {'  '.join(cells)}".rstrip())
        return
    wide = Console(markup=False, highlight=False, width=WIDE)
    with wide.capture() as captured:
        wide.print(table)
    for line in captured.get().splitlines():
        say_whole(line.rstrip())


def _cards(table: Table, width: int) -> Iterator[str]:
    titles = [str(column.header) for column in table.columns]
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        named = [f"{title} {cell}" for title, cell in zip(titles[1:], others, strict=True) if cell]
        yield from textwrap.wrap(
            f"{titles[0]} {first}: {', '.join(named)}",
            width,
            subsequent_indent="  ",
            break_on_hyphens=False,
        )


def clear_screen() -> None:
    """Begin at the top of an empty terminal; nothing where the output goes to a file."""
    shown = Console()
    if shown.is_terminal:
        shown.clear()


def share_bar(share: float, width: int = 10) -> str:
    """Return how much is done, 0..1, as a bar and a number."""
    share = min(1.0, max(0.0, share))
    full = int(share * width)
    return f"{'█' * full}{'·' * (width - full)} {share:.0%}"


def stretch_bar(start: float, end: float, width: int = 20) -> str:
    """Return where a stretch of time lies in a whole, both 0..1, as a bar."""
    first = min(width - 1, max(0, int(start * width)))
    last = min(width, max(first + 1, round(end * width)))
    return "·" * first + "█" * (last - first) + "·" * (width - last)


def show_line(text: str, style: str) -> None:
    """Print one line, all of it: in colour on a terminal, as it is where a program reads it."""
    shown, text = Console(markup=False, highlight=False), one_line(text, at_most=len(text))
    if shown.is_terminal:
        shown.print(text, style=style, soft_wrap=True)  # so that it can be copied
    else:
        say_whole(text)


def age(seconds: float) -> str:
    """Return a duration as a person says it, whatever two clocks say."""
    if not seconds < LONGEST_SECONDS:
        return "over 100 years"
    seconds = max(0.0, seconds)
    for unit, size in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def zone() -> str:
    """Return the time zone of the dates that are shown."""
    return time.strftime("%Z")


def clock(seconds: float) -> str:
    """Return a duration to compare with others: 3 h 04 min, 4 min 05 s, 6.1 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
