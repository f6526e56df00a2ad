"""
What became of a run, as blocks of its page: curves, attempts over time, hours, answers.

    blocks = [*curves_of(told.curves, attempts), *history_of(entries, attempts, receipt)]
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from instruct_core.events import Saved
from jobs.ledger import Entry
from jobs.receipt import CAUSES, Receipt, by_attempt
from launch.console.display import clock
from launch.pages.blocks import Block, Heading, Picture, Table, Words
from launch.pages.chart import line_chart
from launch.runs.attempts import Attempt
from launch.runs.curves import Curve, Samples

# Each chart: what stands beside it, and its curves.
CHARTS = {
    "loss per token": ("train/loss", "val/loss"),
    "learning rate": ("train/learning_rate",),
    "tokens per second": ("train/tokens_per_second",),
}
MOST_NUMBERED = 12  # marks with a number; of more the numbers would cover each other
MOST_STEPS = 8  # of answers that are shown: the first, the last, and some between
LONGEST_TEXT = 2000


def curves_of(curves: Mapping[str, Curve], attempts: Sequence[Attempt]) -> Iterator[Block]:
    """Yield loss, learning rate and throughput over all attempts, each interruption marked."""
    yield Heading("Curves")
    drawn = {
        label: {tag: curves[tag] for tag in tags if tag in curves} for label, tags in CHARTS.items()
    }
    if not any(drawn.values()):
        yield Words("There is none: the run has told TensorBoard nothing yet.")
        return
    marks = _interruptions(attempts)
    for label, lines in drawn.items():
        if lines:
            yield Picture(line_chart(lines, "step", label, marks), f"{label.capitalize()} by step")
    if marks:
        yield Words(
            "A dotted line stands where an attempt ended before its time; its number is that of the "
            "attempt."
        )


def _interruptions(attempts: Sequence[Attempt]) -> dict[int, str]:
    """Return the attempts that were interrupted, by the last step that each came to."""
    ended = [a for a in attempts if a.end not in ("", "finished") and a.to_step is not None]
    marks: dict[int, list[str]] = defaultdict(list)
    for attempt in ended:
        assert attempt.to_step is not None
        marks[attempt.to_step].append(str(attempt.attempt))
    numbered = len(marks) <= MOST_NUMBERED
    return {step: ", ".join(numbers) if numbered else "" for step, numbers in marks.items()}


def history_of(
    entries: Sequence[Entry], attempts: Sequence[Attempt], receipt: Receipt
) -> Iterator[Block]:
    """Yield the attempts over time, and the receipt."""
    yield Heading("Timeline")
    if not attempts:
        yield Words("No attempt has begun yet.")
    else:
        yield _timeline(entries)
        rows = [
            (
                str(attempt.attempt),
                time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(attempt.started_at)),
                attempt.job_id,
                "" if attempt.from_step is None else str(attempt.from_step),
                "" if attempt.to_step is None else str(attempt.to_step),
                attempt.end or "goes on",
            )
            for attempt in attempts
        ]
        header = ("attempt", "started", "job", "from step", "to step", "end")
        yield Table(header, rows, has_numbers=False)
    yield from _receipt(receipt)


def _timeline(entries: Sequence[Entry]) -> Picture:
    begun = min(entry.utc_seconds for entry in entries)
    span = max(entry.utc_seconds for entry in entries) - begun
    name, unit = next(
        ((name, size) for name, size in (("hours", 3600.0), ("minutes", 60.0)) if span >= 2 * size),
        ("seconds", 1.0),
    )
    lines: dict[str, list[tuple[float, float]]] = {}
    for number, mine in by_attempt(entries).items():
        points = [
            ((entry.utc_seconds - begun) / unit, float(step))
            for entry in mine
            if isinstance(step := entry.event.facts.get("step"), int)
        ]
        if points:
            lines[f"_{number}"] = sorted(points)
    saves = [
        ((entry.utc_seconds - begun) / unit, float(entry.event.step))
        for entry in entries
        if isinstance(entry.event, Saved)
    ]
    svg = line_chart(lines, f"{name} since the first attempt began", "step", ends=saves)
    return Picture(svg, "Steps over time, a colour an attempt; a cross is a checkpoint")


def _receipt(receipt: Receipt) -> Iterator[Block]:
    yield Heading("Receipt")
    if not receipt.wall_seconds:
        yield Words("Nothing was spent yet.")
        return
    yield Words(
        f"{clock(receipt.wall_seconds)} since the first submission; goodput {receipt.goodput:.2f}, the "
        "share that went to steps that were kept."
    )
    rows = [
        (CAUSES.get(cause, cause), clock(seconds), f"{seconds / receipt.wall_seconds:.1%}")
        for cause, seconds in receipt.seconds.items()
    ]
    yield Table(("went to", "time", "share"), rows)
    if receipt.losses:
        yield Heading("Lost", is_detail=True)
        lost = [
            (str(loss.attempt), clock(loss.seconds), loss.node, loss.error)
            for loss in receipt.losses
        ]
        yield Table(("attempt", "time", "node", "error"), lost, has_numbers=False)


def samples_of(samples: Sequence[Samples]) -> Iterator[Block]:
    """Yield what the run answered to the same rows over time, beside what they should have said."""
    yield Heading("Answers over time")
    if not samples:
        yield Words("There is none: no attempt has evaluated yet, or only one of an older version.")
        return
    shown = {round(n * (len(samples) - 1) / (MOST_STEPS - 1)) for n in range(MOST_STEPS)}
    steps = [samples[number] for number in sorted(shown)]
    for number, (prompt, reference, _) in enumerate(steps[-1].answers):
        yield Heading(f"Row {number + 1}", is_detail=True)
        answers = [
            (f"step {each.step}", each.answers[number][2])
            for each in steps
            if number < len(each.answers)
        ]
        rows = [("prompt", prompt), ("reference", reference), *answers]
        cells = [(who, text[:LONGEST_TEXT] or "(nothing)") for who, text in rows]
        yield Table(("who", "says"), cells, has_numbers=False)
