"""What a drill says of each fault, and what it does not let pass though the bits are equal."""

from __future__ import annotations

import pytest

from instruct_core.events import Event
from jobs.drill import Fault, Hit, Kind
from jobs.events import Damaged, Resumed
from jobs.ledger import Entry
from launch.drills.verdict import judge


def ledger(*events: tuple[int, float, Event]) -> list[Entry]:
    return [Entry(*event) for event in events]


def test_fault_costs_the_steps_and_seconds_up_to_the_next_resume() -> None:
    entries = ledger((0, 1.0, Resumed(0)), (1, 15.5, Resumed(10)))

    recoveries, problems = judge([Fault("kill", 12)], [Hit(12.0, 12, 0)], entries, 5, None)

    assert problems == []
    assert (recoveries[0].steps_lost, recoveries[0].seconds) == (2, 3.5)


def test_fault_that_never_came_proves_nothing() -> None:
    _, problems = judge([Fault("usr2", 5)], [None], [], 5, None)

    assert problems == ["usr2@5 never came"]


@pytest.mark.parametrize("warning", ["usr1", "usr2", "term"])
def test_warned_run_may_lose_no_step_and_a_killed_one_what_was_not_saved(warning: Kind) -> None:
    warned, killed = Fault(warning, 5), Fault("kill", 20)
    hits = [Hit(5.0, 5, 0), Hit(20.0, 20, 1)]
    entries = ledger((1, 6.0, Resumed(4)), (2, 21.0, Resumed(0)))

    _, problems = judge([warned, killed], hits, entries, 5, None)

    assert problems == [
        f"{warning}@5 lost 1 steps, 0 at most were promised",
        "kill@20 lost 20 steps, 10 at most were promised",
    ]


def test_save_that_was_still_written_when_the_next_was_due_is_no_problem() -> None:
    """A rank reads the samples of a step while the one before is under way: 20 is not trained yet."""
    entries = ledger((0, 1.0, Resumed(0)), (1, 21.0, Resumed(10)))

    recoveries, problems = judge([Fault("kill", 20)], [Hit(20.0, 20, 0)], entries, 5, None)

    assert (recoveries[0].steps_lost, problems) == (10, [])


def test_damaged_checkpoint_is_a_problem_though_the_run_went_on_from_another() -> None:
    _, problems = judge([], [], ledger((1, 6.0, Damaged("step 5 is corrupt"))), 5, None)

    assert problems == ["step 5 is corrupt"]


def test_suspended_rank_goes_on_in_its_own_attempt() -> None:
    entries = ledger((0, 1.0, Resumed(0)), (1, 30.0, Resumed(7)))  # hit by something else later

    recoveries, problems = judge([Fault("stop", 3)], [Hit(3.0, 3, 0)], entries, 5, None)

    assert (recoveries[0].steps_lost, problems) == (0, [])
