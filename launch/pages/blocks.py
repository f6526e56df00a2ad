"""
What stands on a page, whatever it is written as: headings, words, tables and pictures.

    blocks = [Heading("Perplexity"), Words("Over all rows."), Table(("tokens", "loss"), rows)]
    html_of("my-run", blocks)

Cells and words are anybody's text: whoever writes them down takes care that it stays text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """The title of what follows; a detail stands below another heading."""

    text: str
    is_detail: bool = False


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells; all but the first of a row are numbers, or all are words."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    has_numbers: bool = True


@dataclass(frozen=True)
class Picture:
    """An SVG of our own making, and what it shows; ``name`` is that of its file, if it has one."""

    svg: str
    words: str
    name: str = ""


Block = Heading | Words | Table | Picture
