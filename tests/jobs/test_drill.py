"""The faults of a drill: each comes once, at its step, and a warning that gets lost is an error."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from instruct_core.errors import DrillError
from instruct_core.storage.store import Store
from jobs import drill
from jobs.drill import Fault, Hits, read_hits, read_schedule, write_schedule
from jobs.world import World


def world(rank: int = 0) -> World:
    return World(rank, 2, rank, 1, str(os.getpid()), "")


@pytest.fixture
def runs(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


def test_run_without_a_schedule_is_not_hit(runs: Store) -> None:
    Hits(runs, read_schedule(runs), 0, world(), lambda: False).look(5)

    assert runs.names() == []


def test_warning_goes_to_the_controller_at_its_step_and_once(runs: Store) -> None:
    received: list[int] = []
    handler = signal.signal(signal.SIGUSR2, lambda signum, frame: received.append(signum))
    write_schedule(runs, faults := [Fault("usr2", 5)])
    try:
        hits = Hits(runs, read_schedule(runs), 3, world(), lambda: bool(received))
        hits.look(4)
        assert received == []
        hits.look(5)
        hits.look(6)
        Hits(runs, read_schedule(runs), 4, world(), lambda: False).look(7)
    finally:
        signal.signal(signal.SIGUSR2, handler)

    assert received == [signal.SIGUSR2]
    hit = read_hits(runs, faults)[0]
    assert hit is not None
    assert (hit.step, hit.attempt) == (5, 3)


def test_kill_amid_a_save_waits_for_one(runs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    calls = SimpleNamespace(kill=lambda _, signum: sent.append(signum), getpid=os.getpid)
    monkeypatch.setattr(drill, "os", calls)
    write_schedule(runs, faults := [Fault("save", 5)])
    hits = Hits(runs, read_schedule(runs), 0, world(), lambda: False)

    hits.look(9)
    hits.look_amid_save(4)
    before = list(sent)
    hits.look_amid_save(10)
    hits.look_amid_save(15)

    assert (before, sent) == ([], [signal.SIGKILL])
    hit = read_hits(runs, faults)[0]
    assert hit is not None
    assert hit.step == 10


def test_fault_of_another_rank_is_not_ours(runs: Store) -> None:
    write_schedule(runs, faults := [Fault("kill", 5, rank=1)])

    Hits(runs, read_schedule(runs), 0, world(0), lambda: False).look(9)

    assert read_hits(runs, faults) == [None]


def test_second_fault_waits_for_the_next_attempt_while_the_first_is_answered(runs: Store) -> None:
    write_schedule(runs, faults := [Fault("kill", 5)])

    Hits(runs, read_schedule(runs), 0, world(), lambda: True).look(5)  # warned already

    assert read_hits(runs, faults) == [None]


def test_warning_that_does_not_arrive_ends_the_drill(
    runs: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "ARRIVAL_SECONDS", 0.0)
    handler = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    write_schedule(runs, [Fault("usr1", 5)])
    try:
        with pytest.raises(DrillError, match=r"usr1@5 was sent .* warnings do not reach"):
            Hits(runs, read_schedule(runs), 0, world(), lambda: False).look(5)
    finally:
        signal.signal(signal.SIGUSR1, handler)
