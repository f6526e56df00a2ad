"""Who comes back."""

from __future__ import annotations

from signal import SIGTERM, SIGUSR1, SIGUSR2, Signals

import pytest

from jobs.requeue import CrashBudget, comes_back


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ([SIGUSR2, SIGUSR2], True),
        ([None, SIGUSR1], True),
        ([SIGTERM, SIGTERM], False),
        ([SIGUSR2, SIGTERM], False),
    ],
)
def test_persons_stop_is_final_and_a_warning_is_not(
    received: list[Signals | None], expected: bool
) -> None:
    assert comes_back(received) is expected


def test_budget_counts_crashes_in_a_row_that_committed_nothing() -> None:
    budget = CrashBudget()

    allowed = [budget.allows_restart(committed) for committed in (0, 0, 5, 5, 7, 7, 7)]

    assert allowed == [True, True, True, True, True, True, False]
