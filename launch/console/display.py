"""
Tables, and progress bars on a terminal; nothing moves where the output goes to a file.

    show_table(table)
    with progress_bar("Shards") as bar:
        task = bar.add_task("", total=15)
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from launch.console.lines import say

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
    """Print a table: as wide as the terminal, or one long line a row where a program reads it."""
    # Cells are anybody's text: no character of them is markup.
    shown = Console(markup=False, highlight=False)
    if shown.is_terminal:
        shown.print(table)
        return
    wide = Console(markup=False, highlight=False, width=WIDE)
    with wide.capture() as captured:
        wide.print(table)
    for line in captured.get().splitlines():
        say(line.rstrip())


def show_line(text: str, style: str) -> None:
    """Print one line: in colour on a terminal, as it is where a program reads it."""
    shown = Console(markup=False, highlight=False)
    if shown.is_terminal:
        shown.print(text, style=style, soft_wrap=True)  # so that it can be copied
    else:
        say(text)


def age(seconds: float) -> str:
    """Return a duration as a person says it."""
    for unit, size in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def clock(seconds: float) -> str:
    """Return a duration to compare with others: 3 h 04 min, 4 min 05 s, 6.1 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
