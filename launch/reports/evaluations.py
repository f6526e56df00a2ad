"""
What launch/evaluate.py found of a run, read from where it has left it: beside the run's curves.

    blocks = list(evaluations_of(run))
"""

from __future__ import annotations

from collections.abc import Iterator

from instruct_core.converter import structure
from instruct_core.errors import CorruptFileError
from instruct_core.storage.documents import load_document
from instruct_core.storage.store import Store
from launch.evaluation.page import JSON, findings
from launch.evaluation.result import FORMAT, Report
from launch.pages.blocks import Block, Heading, Table, Words
from launch.runs.commands import run_command
from launch.runs.run import Run


def evaluations_of(run: Run) -> Iterator[Block]:
    """Yield all evaluations in a table, and what the one of the latest step found."""
    yield Heading("Evaluation")
    folders = sorted(run.job_parent.parent.glob(f"evaluation-*/{JSON}"))
    reports = []
    for path in folders:
        try:
            reports.append(_read(Store(path.parent)))
        except CorruptFileError as error:
            yield Words(str(error))
    if not reports:
        yield Words(f"There is none. Make one: {run_command(run.store, 'evaluate')}")
        return
    reports.sort(key=lambda report: report.step or 0)
    rows = [
        (
            str(report.step), f"{report.before.perplexity:,.2f}", f"{report.after.perplexity:,.2f}",
            f"{report.after.response_perplexity:,.2f}", f"{report.after.exact_match:.1%}",
            f"{report.after.rouge_l:.4f}",
        )
        for report in reports
    ]  # fmt: skip
    yield Table(
        ("step", "perplexity before", "after", "of responses", "exact match", "ROUGE-L F1"), rows
    )
    yield Words(f"Compared with {reports[-1].base}. What follows is of step {reports[-1].step}.")
    yield from findings(reports[-1])


def _read(folder: Store) -> Report:
    document = load_document(folder, JSON)
    problem = f"{folder.where(JSON)} is no evaluation of this version"
    if document.get("format") != FORMAT:
        raise CorruptFileError(f"{problem}: format is {document.get('format')}.")
    return structure(document, Report, problem)
