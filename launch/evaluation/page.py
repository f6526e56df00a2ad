"""
An evaluation as files: report.json for programs, report.md and report.html for people, loss.svg.

    for name, data in documents(report).items():
        store.replace(name, data)

The page is written as `launch/report.py` writes a run's, of which an evaluation is a part. Prompts
and answers are anybody's text: no character of them may end a cell, or become markup. The same report
gives the same bytes.

Source: GitHub Flavored Markdown 0.29, sections 2.4 (backslash escapes) and 4.10 (tables).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from instruct_core.data.template import text_of
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.turns import Turn
from instruct_core.storage.documents import dump_document
from launch.console.lines import one_line
from launch.evaluation.result import FORMAT, Report
from launch.pages.blocks import Block, Heading, Picture, Table, Words
from launch.pages.chart import line_chart
from launch.pages.html import html_of

JSON = "report.json"
# In the order they are written: with the first the folder is this command's, and may be written again.
FILES = (JSON, "loss.svg", "report.md", "report.html")
SHOWN_SAMPLES = 10
SHOWN_CHARS = 600  # of a text in a table; report.json has all of it
MARKUP = re.compile(r"([\\`*_\[\]|~$])")  # what counts within a line


def documents(report: Report) -> dict[str, bytes]:
    """Return the report's files by name."""
    title = f"{report.title}: before and after training"
    blocks = [*_facts(report), *findings(report), *_loss(report)]
    pictures = {b.name: b.svg.encode() for b in blocks if isinstance(b, Picture)}
    return pictures | {
        "report.md": _markdown(title, blocks).encode(errors="replace"),
        "report.html": html_of(title, blocks).encode(errors="replace"),
        JSON: dump_document({"format": FORMAT, **asdict(report)}),
    }


def findings(report: Report) -> Iterator[Block]:
    """Yield what an evaluation found: numbers before and after, and the first answers."""
    yield Heading("Perplexity")
    yield Words(
        f"Over all {report.val_rows:,} rows of the validation split. Rows do not see each other; one "
        f"of more than {report.seq_len:,} tokens is read in pieces, as in training."
    )
    yield _perplexities(report)
    yield Heading("Answers")
    yield from _answers(report)
    yield Heading(f"The first {min(SHOWN_SAMPLES, len(report.samples))}", is_detail=True)
    yield _samples(report)


def cut(text: str) -> str:
    """Return the beginning of a long text."""
    text = text.strip()
    return text[:SHOWN_CHARS].rstrip() + " …" if len(text) > SHOWN_CHARS else text


def as_text(value: str) -> str:
    """Return Markdown that shows any text as it is, on one line, also inside a table."""
    shown = one_line("\n".join(line.strip() for line in value.strip().splitlines()))
    return MARKUP.sub(r"\\\1", html.escape(shown, quote=False))


def _markdown(title: str, blocks: Sequence[Block]) -> str:
    ends = ["↵ stands for a line break.", ""]
    return "\n\n".join([f"# {as_text(title)}", *map(_markdown_of, blocks), *ends])


def _markdown_of(block: Block) -> str:
    match block:
        case Heading(text, is_detail):
            return f"{'###' if is_detail else '##'} {as_text(text)}"
        case Words(text):
            return as_text(text)
        case Picture(_, words, name):
            return f"![{words}]({name})"
        case Table(header, rows, has_numbers):
            align = "--:" if has_numbers else "---"
            rule = ["---", *[align] * (len(header) - 1)]
            cells = [[as_text(cell) for cell in row] for row in rows]
            return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *cells))


def _facts(report: Report) -> Iterator[Block]:
    facts = {
        "model": report.model,
        "base": report.base,
        "weights kept as": report.weights,
        "shards": report.shards,
        "fingerprint of the shards": report.data_fingerprint,
        "tokens in a sequence": f"{report.seq_len:,}",
        "versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
    }
    if report.weights == "fp32":
        del facts["weights kept as"]
    yield Table(("what", "which"), list(facts.items()), has_numbers=False)


def _perplexities(report: Report) -> Table:
    before, after = report.before, report.after
    return Table(
        ("tokens", "number", "loss before", "loss after", "perplexity before", "perplexity after"),
        [
            (
                "all", f"{report.num_tokens:,}", f"{before.loss:.4f}", f"{after.loss:.4f}",
                f"{before.perplexity:,.2f}", f"{after.perplexity:,.2f}",
            ),
            (
                "of responses", f"{report.num_response_tokens:,}", f"{before.response_loss:.4f}",
                f"{after.response_loss:.4f}", f"{before.response_perplexity:,.2f}",
                f"{after.response_perplexity:,.2f}",
            ),
        ],
    )  # fmt: skip


def _answers(report: Report) -> Iterator[Block]:
    rows = report.num_answered + report.num_left_out
    text = (
        f"To {rows:,} rows drawn from the validation split, the likeliest token each time, at most "
        f"{report.max_new_tokens:,}."
    )
    if report.num_left_out:
        text += (
            f" Left out: {report.num_left_out:,}, whose prompts leave a model no room to answer."
        )
    yield Words(text)
    before, after = report.before, report.after
    yield Table(
        (f"of {report.num_answered:,} answers", "before", "after"),
        [
            ("exact match", f"{before.exact_match:.1%}", f"{after.exact_match:.1%}"),
            ("ROUGE-L F1", f"{before.rouge_l:.4f}", f"{after.rouge_l:.4f}"),
        ],
    )


def _samples(report: Report) -> Table:
    # Without the headings that every prompt has.
    empty = text_of(BY_HEADINGS.segments([Turn("user", "\0")], asks=True))
    start, end = (part.strip() for part in empty.split("\0"))
    rows = [
        (
            sample.prompt.strip().removeprefix(start).removesuffix(end),
            sample.reference, sample.before, sample.after,
        )
        for sample in report.samples[:SHOWN_SAMPLES]
    ]  # fmt: skip
    cells = [[cut(cell) for cell in row] for row in rows]
    return Table(("prompt", "reference", "before", "after"), cells, has_numbers=False)


def _loss(report: Report) -> Iterator[Block]:
    yield Heading("Loss")
    if not report.curves:
        yield Words(
            "There is no curve: no TensorBoard events of this model's training are at hand."
        )
        return
    marks = {} if report.step is None else {report.step: "evaluated"}
    svg = line_chart(report.curves, "step", "loss per token", marks)
    yield Picture(svg, "Loss by step", "loss.svg")
