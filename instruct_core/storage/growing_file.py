"""
A file that grows by whole records, on a disk that may refuse to take them for a while.

    file = GrowingFile(Path("runs_instruct/my-run/samples.jsonl"), "samples")
    file.add(b'{"step": 0}\\n')      # waits for nothing
    file.write()                      # tries once; what is refused is written with what comes later
    file.write(10.0, durably=True)    # tries for ten seconds, and flushes it to the disk

What a refused write has left there is written over, and so is what was written though the answer was
lost: no record is there twice, and none out of order.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from instruct_core.storage.patience import naming, patiently

logger = logging.getLogger(__name__)

MOST_BYTES = 64 << 20  # that wait in memory


class GrowingFile:
    """
    One file that nobody else writes to; records are added by one thread, and written by any.

    Args:
        path: Its folder need not be there yet.
        what: What it holds, for messages.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self._what = path, what
        self._waiting: list[bytes] = []
        self._added = self._written = 0  # bytes
        self._lock = threading.Lock()  # of who writes
        self._is_behind = False  # the disk has refused what was to be written last
        self._has_told = False  # that records are left out

    def add(self, record: bytes) -> None:
        """Keep a record until it is written; where too many wait, those that come are left out."""
        if self._added - self._written + len(record) > MOST_BYTES:
            if not self._has_told:
                logger.warning("%d MB of %s wait: more are left out", MOST_BYTES >> 20, self._what)
            self._has_told = True
            return
        self._added += len(record)
        self._waiting.append(record)

    def write(self, patience_seconds: float = 0.0, durably: bool = False) -> bool:
        """
        Write what was added; False, and a word in the log, where the disk refuses it.

        Args:
            patience_seconds: How long to go on where it is refused, for whatever reason.
            durably: Flush the file to the disk too, with all that was written before.
        """
        with self._lock:
            try:
                patiently(lambda: self._write(durably), patience_seconds, lambda _: True)
            except OSError as error:  # a full disk must not end a run
                if not self._is_behind:
                    logger.warning("The %s could not be written, and wait: %s", self._what, error)
                self._is_behind = True
            else:
                if self._is_behind:
                    logger.info("The %s are written", self._what)
                self._is_behind = self._has_told = False
            return not self._is_behind

    def _write(self, durably: bool) -> None:
        records = self._waiting[:]  # more may be added meanwhile
        if not records and not (durably and self._written):
            return
        if not self._written:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        data = b"".join(records)
        with naming(self.path):
            anew = 0 if self._written else os.O_TRUNC  # an older run of the name may have left one
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | anew, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                file.seek(self._written)
                file.write(data)
                if durably:
                    file.flush()
                    os.fsync(descriptor)
        del self._waiting[: len(records)]
        self._written += len(data)
