"""
What an evaluation found, as values.

    report = Report(run="my-run", step=100, ...)
    print_summary(report)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.table import Table

from instruct_core.storage.store import Store
from launch.console.display import show_table

EVENTS = "events.out.tfevents."  # how TensorBoard names its files
CURVES = ("train/loss", "val/loss")
Curve = list[tuple[int, float]]  # (global step, value)


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

    @property
    def title(self) -> str:
        """What was evaluated, in a few words."""
        return self.model if self.run is None else f"{self.run} at step {self.step}"


def read_curves(run: Store) -> dict[str, Curve]:
    """Return a run's losses by step; none where its events are not on this machine."""
    if not run.is_local or not any(name.startswith(EVENTS) for name in run.names()):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.local_path("")), size_guidance={"scalars": 0})
    events.Reload()
    curves = {
        tag: [(p.step, p.value) for p in events.Scalars(tag) if math.isfinite(p.value)]
        for tag in CURVES
        if tag in events.Tags()["scalars"]
    }
    return {tag: points for tag, points in curves.items() if points}


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
