"""Whatever happened to a run: each second has the right name, none has two, and they sum to the whole."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_core.events import Event, Saved
from instruct_core.storage.store import Store
from jobs.events import Crashed, Finished, Requeued, Resumed, Started, Stopped, Unknown
from jobs.ledger import Entry, read_ledger
from jobs.receipt import CAUSES, receipt_of

BEGUN_AT = 1_760_000_000.0
STARTED = Started(0, "7", 2, "cpu", [1, 2], ["a", "a"])
End = Literal["requeued", "stopped", "killed", "lost"]


class Plan(NamedTuple):
    """What happens in one attempt, in seconds."""

    queued: float
    imports: float
    load: float
    saves: list[tuple[float, float, float]]  # steps, an evaluation and the save after it
    unsaved: float  # steps after the last save
    end: End
    ending: float  # until it has told of its end, or until somebody has seen that it was killed
    stopped: float  # until somebody gives the command again, where it is stopped


class Story:
    """A run as it really was: its ledger, its submissions, and the seconds by their true causes."""

    def __init__(self, plans: list[Plan]) -> None:
        self.at = BEGUN_AT
        self.entries: list[Entry] = []
        self.submitted_at = [BEGUN_AT]
        self.truth: dict[str, float] = defaultdict(float)
        self._step = 0
        for attempt, plan in enumerate(plans):
            self._attempt(attempt, plan)
        self._tells(len(plans), "finished", 1.0)

    def _attempt(self, attempt: int, plan: Plan) -> None:
        self._goes_on("queued", plan.queued)
        self._spent: dict[str, float] = {}
        self._works(imports=plan.imports)
        self._says(attempt, STARTED)
        self._works(load=plan.load)
        self._says(attempt, Resumed(self._step))
        kept = None
        for steps, evaluation, save in plan.saves:
            self._works(step=steps, evaluation=evaluation, save=save)
            self._step += 10
            self._says(attempt, Saved(step=self._step, seconds=save))
            kept = dict(self._spent)
        self._works(step=plan.unsaved)
        self._ends(attempt, plan, kept or {})

    def _ends(self, attempt: int, plan: Plan, kept: dict[str, float]) -> None:
        is_told = plan.end in ("requeued", "stopped")
        if is_told:
            self._works(ending=plan.ending)
            self._step += 10
            end = Requeued(self._step) if plan.end == "requeued" else Stopped(self._step)
            self._says(attempt, end)
        else:
            self.at += plan.ending
            if plan.end == "killed":
                self._says(attempt, Crashed("killed", node="n2", comes_back=True), tells=False)
        for cause, seconds in (self._spent if is_told else kept).items():
            self.truth[cause] += seconds
        if not is_told:
            self.truth["redone"] += sum(self._spent.values()) - sum(kept.values()) + plan.ending
        if plan.end == "stopped":
            self._goes_on("stopped", plan.stopped)
            self.submitted_at.append(self.at)

    def _tells(self, attempt: int, cause: str, seconds: float) -> None:
        """Have one last attempt finish, so that all others have one that follows."""
        self._spent = {}
        self._works(imports=seconds)
        self._says(attempt, Resumed(self._step))
        self._works(step=seconds)
        self._says(attempt, Finished(self._step + 1))
        for name, spent in self._spent.items():
            self.truth[name] += spent

    def _goes_on(self, cause: str, seconds: float) -> None:
        self.at += seconds
        self.truth[cause] += seconds

    def _works(self, **spent: float) -> None:
        for cause, seconds in spent.items():
            self.at += seconds
            self._spent[cause] = self._spent.get(cause, 0.0) + seconds

    def _says(self, attempt: int, event: Event, tells: bool = True) -> None:
        self.entries.append(Entry(attempt, self.at, event, dict(self._spent) if tells else {}))


def seconds_of(story: Story) -> dict[str, float]:
    return {cause: seconds for cause, seconds in story.truth.items() if seconds}


SECONDS = st.integers(1, 4000).map(lambda quarters: quarters / 4)
PLANS = st.builds(
    Plan, SECONDS, SECONDS, SECONDS, st.lists(st.tuples(SECONDS, SECONDS, SECONDS), max_size=4), SECONDS,
    st.sampled_from(["requeued", "stopped", "killed"]), SECONDS, SECONDS,
)  # fmt: skip


def test_seconds_of_known_pauses_are_under_their_causes() -> None:
    story = Story([
        Plan(10.0, 2.0, 1.0, [(20.0, 3.0, 0.5), (20.0, 3.0, 0.5)], 4.0, "killed", 7.0, 0.0),
        Plan(30.0, 2.0, 1.0, [(20.0, 3.0, 0.5)], 2.0, "requeued", 1.5, 0.0),
        Plan(60.0, 2.0, 1.0, [], 5.0, "stopped", 0.5, 3600.0),
        Plan(15.0, 2.0, 1.0, [(20.0, 3.0, 0.5)], 0.0, "killed", 40.0, 0.0),
    ])  # fmt: skip

    receipt = receipt_of(story.entries, story.submitted_at, now=None)

    assert receipt.seconds == pytest.approx({
        "step": 80.0 + 2.0 + 5.0 + 1.0, "evaluation": 12.0, "save": 2.0, "redone": 4.0 + 7.0 + 40.0,
        "imports": 9.0, "load": 4.0, "ending": 2.0, "queued": 115.0, "stopped": 3600.0,
    })  # fmt: skip
    assert receipt.wall_seconds == pytest.approx(story.at - BEGUN_AT)
    assert [(loss.attempt, loss.seconds) for loss in receipt.losses] == [(0, 11.0), (3, 40.0)]


@given(st.lists(PLANS, max_size=6))
def test_each_second_has_its_true_cause(plans: list[Plan]) -> None:
    story = Story(plans)

    receipt = receipt_of(story.entries, story.submitted_at, now=None)

    assert receipt.seconds == pytest.approx(seconds_of(story), rel=1e-6, abs=1e-3)
    assert receipt.wall_seconds == pytest.approx(story.at - BEGUN_AT)
    lost = sum(loss.seconds for loss in receipt.losses)
    assert lost == pytest.approx(receipt.seconds.get("redone", 0.0), abs=0.01)


@given(
    st.lists(PLANS, min_size=1, max_size=6), st.lists(st.integers(-900, 900), min_size=7), st.data()
)
def test_clocks_of_hosts_that_disagree_name_no_second_twice(
    plans: list[Plan], skews: list[int], data: st.DataObject
) -> None:
    story = Story(plans)
    entries = [
        entry._replace(utc_seconds=entry.utc_seconds + skews[entry.attempt])
        for entry in story.entries
    ]
    now = data.draw(st.sampled_from([None, story.at - 5000.0, story.at + 60.0]))

    receipt = receipt_of(entries, story.submitted_at, now)

    last = max(e.utc_seconds for e in entries if e.attempt == entries[-1].attempt)
    most = max([last, *(entry.utc_seconds for entry in entries), now or 0.0]) - BEGUN_AT
    assert all(seconds > 0 for seconds in receipt.seconds.values())
    assert set(receipt.seconds) <= set(CAUSES)
    assert last - BEGUN_AT - 1e-3 <= receipt.wall_seconds <= most + 1e-3


@given(st.lists(PLANS, max_size=4), st.randoms(use_true_random=False), st.booleans())
def test_lines_in_any_order_with_some_gone_name_no_second_twice(
    plans: list[Plan], draw: random.Random, goes_on: bool
) -> None:
    story = Story(plans)
    entries = [entry for entry in story.entries if draw.random() < 0.7]
    draw.shuffle(entries)
    now = story.at + 10.0 if goes_on else None

    receipt = receipt_of(entries, story.submitted_at, now)

    assert all(seconds > 0 for seconds in receipt.seconds.values())
    assert receipt.wall_seconds <= (now or story.at) - BEGUN_AT + 1e-3
    assert now is None or receipt.wall_seconds == pytest.approx(now - BEGUN_AT)


def test_run_whose_machine_died_was_stopped_until_somebody_gave_the_command_again() -> None:
    story = Story([Plan(10.0, 2.0, 1.0, [(20.0, 3.0, 0.5)], 4.0, "lost", 0.0, 0.0)])
    again = 3600.0
    first = [entry for entry in story.entries if entry.attempt == 0]
    later = [e._replace(utc_seconds=e.utc_seconds + again) for e in story.entries if e.attempt == 1]
    submitted_at = [BEGUN_AT, later[0].utc_seconds - 30.0]

    receipt = receipt_of([*first, *later], submitted_at, now=None)

    assert receipt.seconds["queued"] == pytest.approx(10.0 + 29.0)
    assert receipt.wall_seconds == pytest.approx(later[-1].utc_seconds - BEGUN_AT)


def test_crash_that_a_clock_ahead_has_noted_takes_nothing_from_the_next_attempt() -> None:
    plan = Plan(10.0, 2.0, 1.0, [(20.0, 3.0, 0.5)], 4.0, "killed", 1.0, 0.0)
    story = Story([plan, plan._replace(end="requeued")])
    entries = [
        entry._replace(utc_seconds=entry.utc_seconds + 300 * isinstance(entry.event, Crashed))
        for entry in story.entries
    ]

    receipt = receipt_of(entries, story.submitted_at, now=None)

    assert receipt.seconds["step"] == pytest.approx(story.truth["step"])
    assert receipt.wall_seconds == pytest.approx(story.at - BEGUN_AT)


def test_attempt_that_told_nothing_was_waited_for() -> None:
    entries = [
        Entry(0, 101.0, Resumed(0), {"imports": 1.0}),
        Entry(0, 105.0, Requeued(4), {"imports": 1.0, "step": 4.0}),
        Entry(2, 161.0, Resumed(4), {"imports": 1.0}),
        Entry(2, 162.0, Finished(5), {"imports": 1.0, "step": 1.0}),
    ]

    receipt = receipt_of(entries, [100.0], now=None)

    assert receipt.seconds == {"step": 5.0, "imports": 2.0, "queued": 55.0}


@pytest.mark.parametrize("torn", [b'{"utc_seconds": 1760000', b"\0\0\0", b"[]", b"{}"])
@pytest.mark.parametrize("is_first", [True, False])
def test_torn_line_costs_no_second(torn: bytes, is_first: bool, tmp_path: Path) -> None:
    lines = [
        b'{"utc_seconds": 101.0, "event": "resumed", "step": 0, "spent": {"imports": 1.0}}',
        b'{"utc_seconds": 105.0, "event": "finished", "step": 4, "spent": {"imports": 1.0, "step": 4.0}}',
    ]
    lines = [torn, *lines] if is_first else [*lines, torn]
    (tmp_path / "attempt-0000.jsonl").write_bytes(b"\n".join(lines))
    entries = read_ledger(Store(tmp_path))

    receipts = [receipt_of(entries, submitted_at, now=None) for submitted_at in ([100.0], [])]

    assert sum(isinstance(entry.event, Unknown) for entry in entries) == 1
    assert [receipt.seconds for receipt in receipts] == [{"step": 4.0, "imports": 1.0}] * 2
