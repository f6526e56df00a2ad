"""
Ctrl-C while Python loads a command, or ends it: it ends quietly, as it does in between.

    import launch.console.ctrl_c  # noqa: F401  the first import of a door

From the import on; `guarded` makes an exception of it for as long as there is something to undo. Who
ignores Ctrl-C, as a shell has its background jobs do, goes on ignoring it.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

EXIT_INTERRUPTED = 130


def _leave(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001  as handlers are called
    os._exit(EXIT_INTERRUPTED)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
