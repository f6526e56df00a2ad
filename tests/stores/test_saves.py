"""A save to Google's and Azure's storage killed, refused or cut off at any of its requests."""

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


def ends_though_killed_at(at: int, line: Line, attempt: Callable[[], None]) -> bool:
    """Run ``attempt`` in a child that is killed at its request ``at``; False if it was."""
    may_begin = FORKED.Event()

    def work() -> None:
        may_begin.wait()
        attempt()

    child = FORKED.Process(target=work)
    child.start()
    line.victim = child.pid or 0
    line.plan(lambda request: Fault.KILL if request.number == at else None)
    may_begin.set()
    child.join()
    line.clear()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode == 0


def test_save_killed_at_its_requests_loses_nothing(emulated: Emulated) -> None:
    """Every second one, from the claim of its attempt on; test_crash_s3 takes them all."""
    url = f"{emulated.url}/killed"
    make_two(url)
    step = 2
    for at in range(1, 1000, 2):

        def attempt(step: int = step) -> None:
            killed = begin(url)
            load_newest(killed)
            save(killed, step + 1)

        ended = ends_though_killed_at(at, emulated.line, attempt)

        checkpoints = check_newest(url, at_least=step + ended)
        check_next_save(checkpoints, url, step + 2)
        step += 2
        if ended:
            assert at > 20, "a save has more requests than that"
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
