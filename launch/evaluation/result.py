"""
What an evaluation found, as values.

    report = Report(run="my-run", step=100, ...)
    print_summary(report)
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table

from instruct_core.recipe import Kept
from launch.console.display import show_table
from launch.runs.curves import Curve

FORMAT = 1  # of report.json
CURVES = ("train/loss", "val/loss")


@dataclass(frozen=True)
class Scores:
    """What one model reaches: losses in nats per token, the last two 0..1."""

    loss: float
    perplexity: float
    response_loss: float
    response_perplexity: float
    exact_match: float
    rouge_l: float


@dataclass(frozen=True)
class Sample:
    """A prompt of the validation split, what follows it there, and what each model answers."""

    prompt: str
    reference: str
    before: str
    after: str


@dataclass(frozen=True)
class Report:
    """All that was found; ``run`` and ``step`` are None for a model that is not a run's."""

    run: str | None
    step: int | None
    model: str
    base: str
    shards: str
    data_fingerprint: str
    val_rows: int
    num_tokens: int
    num_response_tokens: int
    seq_len: int
    num_answered: int
    num_left_out: int
    max_new_tokens: int
    before: Scores
    after: Scores
    versions: dict[str, str]
    curves: dict[str, Curve]
    samples: list[Sample]
    weights: Kept = "fp32"  # numbers in which both models kept them

    @property
    def title(self) -> str:
        """What was evaluated, in a few words."""
        return self.model if self.run is None else f"{self.run} at step {self.step}"


def print_summary(report: Report) -> None:
    """Print what the models reach."""
    table = Table("measure", "before", "after", box=None)
    for words, name, form in (
        ("perplexity of all tokens", "perplexity", ",.2f"),
        ("perplexity of responses", "response_perplexity", ",.2f"),
        ("exact match", "exact_match", ".1%"),
        ("ROUGE-L F1", "rouge_l", ".4f"),
    ):
        values = (getattr(scores, name) for scores in (report.before, report.after))
        table.add_row(words, *(format(value, form) for value in values))
    show_table(table)
