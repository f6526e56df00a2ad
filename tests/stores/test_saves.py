"""A save to Google's and Azure's storage killed at any change, or refused or cut off at its writes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable

import pytest

from instruct_core.checkpoints.loader import load_newest
from tests.instruct_core.checkpoints.test_crash import (
    begin,
    check_newest,
    check_next_save,
    make_two,
    save,
)
from tests.stores.line import Fault, Line, Request
from tests.stores.servers import Emulated

FORKED = multiprocessing.get_context("fork")


class KilledAt:
    """
    A plan that kills who asks for a change, the one of that number.

    What is only read leaves nothing behind: a kill there is one before the next change.
    """

    def __init__(self, at: int) -> None:
        self._at, self._changes = at, 0

    def __call__(self, request: Request) -> Fault | None:
        changes = request.method not in ("GET", "HEAD")
        self._changes += changes
        return Fault.KILL if changes and self._changes == self._at else None


def ends_though_killed_at(at: int, line: Line, attempt: Callable[[], None]) -> bool:
    """Run ``attempt`` in a child that is killed at its change ``at``; False if it was."""
    may_begin = FORKED.Event()

    def work() -> None:
        may_begin.wait()
        attempt()

    child = FORKED.Process(target=work)
    child.start()
    line.victim = child.pid or 0
    line.plan(KilledAt(at))
    may_begin.set()
    child.join()
    line.clear()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode == 0


def test_save_killed_at_any_change_loses_nothing(emulated: Emulated) -> None:
    """From the claim of its attempt on."""
    url = f"{emulated.url}/killed"
    make_two(url)
    step = 2
    for at in range(1, 1000):

        def attempt(step: int = step) -> None:
            killed = begin(url)
            load_newest(killed)
            save(killed, step + 1)

        ended = ends_though_killed_at(at, emulated.line, attempt)

        checkpoints = check_newest(url, at_least=step + ended)
        check_next_save(checkpoints, url, step + 2)
        step += 2
        if ended:
            assert at > 8, "a save has more changes than that"
            return
    pytest.fail("a save without end")


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.CUT_AFTER])
def test_save_whose_writes_go_wrong_loses_nothing(emulated: Emulated, fault: Fault) -> None:
    url = f"{emulated.url}/{fault.name}"
    make_two(url)
    wrong = 0

    def plan(request: Request) -> Fault | None:
        nonlocal wrong
        is_due = request.method in ("PUT", "POST") and request.number % 3 == 0
        wrong += is_due
        return fault if is_due else None

    checkpoints = begin(url)
    load_newest(checkpoints)
    emulated.line.plan(plan)
    for step in (3, 4, 5):
        save(checkpoints, step)

    emulated.line.clear()
    assert wrong > 2
    check_next_save(check_newest(url, at_least=5), url, 6)
