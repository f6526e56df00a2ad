"""
Blocks as one HTML page that needs no other file and no network, on a phone too, light or dark.

    store.replace("report.html", html_of("my-run", blocks).encode())

What a model or a row says stays text: every character of it is escaped, those that move a cursor or
turn the direction of writing are shown by their numbers, and the page forbids itself scripts and
requests.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from launch.console.lines import shortened, without_controls
from launch.pages.blocks import Block, Heading, Picture, Table, Words

GENERATOR = '<meta name="generator" content="instruct-cluster">'
LONGEST_TEXT = 20_000  # characters of one paragraph or cell: a template of a chat has as many
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --paper: #fff; --line: #c9d0da; --faint: #5a6675 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe5ee; --paper: #14181f; --line: #3a4452; --faint: #98a4b5 }
}
* { box-sizing: border-box }
body {
  font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 75rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; line-height: 1.2 }
h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0; flex: 1 1 20rem; max-width: 40rem; min-width: 0 }
figcaption { color: var(--faint); font-size: 0.9rem }
svg { display: block; width: 100%; height: auto; color: var(--ink) }
table { border-collapse: collapse; margin: 1rem 0 }
th, td {
  border: 1px solid var(--line); padding: 0.25rem 0.6rem; text-align: left; vertical-align: top;
  white-space: pre-wrap;
}
.numbers th:not(:first-child), .numbers td:not(:first-child) { text-align: right }
td:first-child { min-width: 6.5em }
@media (max-width: 45rem) {
  .wide, .wide tbody, .wide tr, .wide td { display: block }
  .wide thead { display: none }
  .wide tr { border: 1px solid var(--line); margin-bottom: 0.6rem; padding: 0.25rem 0.6rem }
  .wide td, .numbers.wide td:not(:first-child) { border: 0; padding: 0; text-align: left }
  .wide td:empty { display: none }
  .wide td::before { content: attr(data-of) ": "; color: var(--faint) }
}
"""


def html_of(title: str, blocks: Iterable[Block]) -> str:
    """Return a whole page; the same blocks give the same text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'{GENERATOR}\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escaped(title)}</h1>\n{''.join(_parts(blocks))}</body>\n</html>\n"
    )


def escaped(text: str) -> str:
    """Return text of any origin as HTML that shows it, also inside an attribute."""
    return html.escape(without_controls(shortened(text, LONGEST_TEXT)))


def _parts(blocks: Iterable[Block]) -> Iterable[str]:
    in_pictures = False
    for block in blocks:
        if isinstance(block, Picture) != in_pictures:  # pictures stand side by side
            in_pictures = not in_pictures
            yield '<div class="pictures">\n' if in_pictures else "</div>\n"
        yield _part(block)
    if in_pictures:
        yield "</div>\n"


def _part(block: Block) -> str:
    match block:
        case Heading(text, is_detail):
            tag = "h3" if is_detail else "h2"
            return f"<{tag}>{escaped(text)}</{tag}>\n"
        case Words(text):
            return f"<p>{escaped(text)}</p>\n"
        case Picture(svg, words):
            inside = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # HTML knows them
            return f"<figure>{inside}<figcaption>{escaped(words)}</figcaption></figure>\n"
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    header = [escaped(title) for title in table.header]
    titles = "".join(f"<th>{title}</th>" for title in header)
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td data-of="{title}">{escaped(cell)}</td>'
            for title, cell in zip(header, row, strict=True)
        )
        + "</tr>\n"
        for row in table.rows
    )
    kinds = [("numbers", table.has_numbers), ("wide", len(header) > 2)]
    names = " ".join(name for name, holds in kinds if holds)
    head = f"<thead><tr>{titles}</tr></thead>"
    return f'<table class="{names}">\n{head}\n<tbody>\n{rows}</tbody>\n</table>\n'
