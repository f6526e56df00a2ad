"""Warnings are noted at once, in any state of the main thread, and never reach a child."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.survival.stop_signal import WARNINGS, StopSignal
from tests.conftest import wait_for


@pytest.fixture(autouse=True)
def harmless_handlers() -> Iterator[None]:
    """A warning that is still on its way when a test ends must not end pytest."""
    before = {signum: signal.signal(signum, lambda *_: None) for signum in WARNINGS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def send_soon(signum: signal.Signals) -> None:
    threading.Timer(0.05, os.kill, (os.getpid(), signum)).start()


def wait_until_noted(stop: StopSignal) -> None:
    wait_for(lambda: stop.noted, "the warning")


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_warning_is_noted(signum: signal.Signals) -> None:
    with StopSignal() as stop:
        send_soon(signum)

        wait_until_noted(stop)

        assert stop.received == signum


def test_warning_is_noted_while_the_main_thread_is_inside_a_c_call(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    noted_inside = False

    def open_gate() -> None:
        nonlocal noted_inside
        with contextlib.suppress(AssertionError):
            wait_until_noted(stop)
        noted_inside = stop.noted
        gate.write_text("open\n")

    with StopSignal() as stop:
        opener = threading.Thread(target=open_gate)
        opener.start()

        # Returns to Python only when the gate is open; a signal does not interrupt it.
        ctypes.CDLL(None).system(f"kill -USR2 {os.getpid()}; read line < {gate}".encode())
        opener.join()

        assert noted_inside


def test_first_warning_is_kept_when_another_follows() -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGUSR2)
        wait_until_noted(stop)

        os.kill(os.getpid(), signal.SIGTERM)

        is_read = stop._told_to_end.is_set
        wait_for(lambda: is_read() or stop.received != signal.SIGUSR2, "the second one")
        assert stop.received == signal.SIGUSR2


def test_child_process_survives_the_warning() -> None:
    with StopSignal():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"])

        child.send_signal(signal.SIGUSR2)

        assert child.wait() == 0


def test_handlers_are_restored_on_exit() -> None:
    before = [signal.getsignal(signum) for signum in WARNINGS]

    with StopSignal():
        pass

    assert [signal.getsignal(signum) for signum in WARNINGS] == before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(WARNINGS)


def test_warning_after_the_end_requeues_nothing() -> None:
    requeued: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda signum, frame: requeued.append(signum))
    try:
        with StopSignal() as stop:
            stop.ignore_from_now_on()
        os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)

    assert requeued == []
