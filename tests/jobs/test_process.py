"""What a process does at a signal once it is told to do again what it did before."""

from __future__ import annotations

import signal

from jobs.process import put_back


def test_handler_that_python_did_not_install_leaves_the_kernels_own_action() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        put_back(signal.SIGUSR1, None)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    finally:
        put_back(signal.SIGUSR1, before)
    assert signal.getsignal(signal.SIGUSR1) is before
