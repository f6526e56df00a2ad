"""
An evaluation as files: report.json for programs, report.md and report.html for people, loss.svg.

    for name, data in documents(report).items():
        store.replace(name, data)

The page is the Markdown rendered, with the plot inside, and needs no other file. Prompts and
answers are anybody's text: no character of them may end a cell, or become markup. The same report
gives the same bytes.

Source: GitHub Flavored Markdown 0.29, sections 2.4 (backslash escapes) and 4.10 (tables).
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from dataclasses import asdict

from instruct_core.data.template import render_prompt
from instruct_core.storage.documents import dump_document
from launch.evaluation.result import Curve, Report

JSON = "report.json"
FILES = ("loss.svg", "report.md", "report.html", JSON)  # in the order they are written
FORMAT = 1
SHOWN_SAMPLES = 10
SHOWN_CHARS = 600  # of a text in a table; report.json has all of it
NEWLINE = " ↵ "
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MARKUP = re.compile(r"([\\`*_\[\]|~$])")  # what counts within a line
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { border: 1px solid #ccc; padding: 0.3rem 0.6rem; vertical-align: top }
td { overflow-wrap: anywhere }
svg { max-width: 100%; height: auto }
"""


def documents(report: Report) -> dict[str, bytes]:
    """Return the report's files by name, in the order to write them: report.json makes it count."""
    markdown = _markdown(report)
    plot = _plot(report.curves, report.step) if report.curves else ""
    files = {"loss.svg": plot.encode()} if plot else {}
    return files | {
        "report.md": markdown.encode(),
        "report.html": _page(report.title, markdown, plot).encode(),
        JSON: dump_document({"format": FORMAT, **asdict(report)}),
    }


def as_text(value: str) -> str:
    """Return Markdown that shows any text as it is, on one line, also inside a table."""
    lines = value.strip().splitlines()
    shown = CONTROLS.sub(" ", NEWLINE.join(line.strip() for line in lines))
    if len(shown) > SHOWN_CHARS:
        shown = shown[:SHOWN_CHARS].rstrip() + " …"
    return MARKUP.sub(r"\\\1", html.escape(shown, quote=False))


def _markdown(report: Report) -> str:
    return "\n\n".join(
        [
            f"# {as_text(report.title)}: before and after training",
            _facts(report),
            "## Perplexity",
            f"Over all {report.val_rows:,} rows of the validation split. Rows do not see each other; one "
            f"of more than {report.seq_len:,} tokens is read in pieces, as in training.",
            _perplexities(report),
            "## Answers",
            _answers(report),
            f"### The first {min(SHOWN_SAMPLES, len(report.samples))}",
            _samples(report),
            f"{NEWLINE.strip()} stands for a line break.",
            "## Loss",
            "![Loss by step](loss.svg)"
            if report.curves
            else "There is no curve: no TensorBoard events of this model's training are at hand.",
            "",
        ]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str = "--:") -> str:
    """Return a table; the first column is words, ``align`` is that of the others."""
    rule = ["---", *[align] * (len(header) - 1)]
    cells = [[as_text(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *cells))


def _facts(report: Report) -> str:
    facts = {
        "model": report.model,
        "base": report.base,
        "shards": report.shards,
        "fingerprint of the shards": report.data_fingerprint,
        "tokens in a sequence": f"{report.seq_len:,}",
        "versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
    }
    return _table(("what", "which"), list(facts.items()), align="---")


def _perplexities(report: Report) -> str:
    before, after = report.before, report.after
    return _table(
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


def _answers(report: Report) -> str:
    rows = report.num_answered + report.num_left_out
    text = (
        f"To {rows:,} rows drawn from the validation split, the likeliest token each time, at most "
        f"{report.max_new_tokens:,}."
    )
    if report.num_left_out:
        text += (
            f" Left out: {report.num_left_out:,}, whose prompts leave a model no room to answer."
        )
    before, after = report.before, report.after
    table = _table(
        (f"of {report.num_answered:,} answers", "before", "after"),
        [
            ("exact match", f"{before.exact_match:.1%}", f"{after.exact_match:.1%}"),
            ("ROUGE-L F1", f"{before.rouge_l:.4f}", f"{after.rouge_l:.4f}"),
        ],
    )
    return f"{text}\n\n{table}"


def _samples(report: Report) -> str:
    # Without the headings that every prompt has.
    start, end = (part.strip() for part in render_prompt("\0").split("\0"))
    rows = [
        (
            sample.prompt.strip().removeprefix(start).removesuffix(end),
            sample.reference, sample.before, sample.after,
        )
        for sample in report.samples[:SHOWN_SAMPLES]
    ]  # fmt: skip
    return _table(("prompt", "reference", "before", "after"), rows, align="---")


def _page(title: str, markdown: str, plot: str) -> str:
    """Return the Markdown as one HTML page; no HTML in it is taken for such."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    # The only image is ours: what was given to us has its brackets escaped.
    parser.add_render_rule("image", lambda *_: plot[plot.index("<svg") :])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"{parser.render(markdown)}</body>\n</html>\n"
    )


def _plot(curves: dict[str, Curve], step: int | None) -> str:
    """Return the curves as SVG, with the evaluated step marked."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Ids are random and a date is written unless told; the reader's fonts are good enough.
    with mpl.rc_context({"svg.hashsalt": "instruct-cluster", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        for tag, points in curves.items():
            marker = "o" if len(points) < 50 else ""
            axes.plot(*zip(*points, strict=True), label=tag, marker=marker, markersize=3)
        if step is not None:
            axes.axvline(step, color="gray", linestyle=":", label="evaluated")
        axes.set(xlabel="step", ylabel="loss per token")
        axes.grid(alpha=0.3)
        axes.legend()
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()
