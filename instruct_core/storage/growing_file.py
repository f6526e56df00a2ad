"""
A file that grows by whole records, on a disk that may refuse to take them for a while.

    file = GrowingFile(Path("runs_instruct/my-run/samples.jsonl"), "samples")
    file.add(b'{"step": 0}\\n')      # waits for nothing
    file.write()                      # tries once; what is refused is written with what comes later
    file.write(10.0, durably=True)    # tries for ten seconds, and flushes it to the disk

What a refused write has left there is written over, and so is what was written though the answer was
lost: no record is there twice, and none out of order. Records are kept until they are flushed: a disk
that could not take pages which were written long ago says so once, and has thrown them away.

Sources: fsync(2); https://wiki.postgresql.org/wiki/Fsync_Errors (what a system keeps of pages that
could not be written).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from instruct_core.storage.looks import is_there
from instruct_core.storage.names import sync_folder
from instruct_core.storage.patience import naming, patiently

logger = logging.getLogger(__name__)

MOST_BYTES = 64 << 20  # that wait in memory
MOST_UNFLUSHED_BYTES = 8 << 20  # that were written and are kept; more of them are flushed
OTHERS_SECONDS = 1.0  # that whoever writes is waited for at least; most writes take a millisecond


class GrowingFile:
    """
    One file that nobody else writes to; records are added by one thread, and written by any.

    Args:
        path: Its folder need not be there yet.
        what: What it holds, for messages.
        is_scratch: It need not outlive this machine, and is never flushed.
    """

    def __init__(self, path: Path, what: str, is_scratch: bool = False) -> None:
        self.path, self._what, self._is_scratch = path, what, is_scratch
        self._kept: list[bytes] = []  # all that is not flushed
        self._num_written = 0  # of these
        self._added = self._written = self._flushed = 0  # bytes
        self._is_made = False  # what an older run of the name had left is gone
        self._new_names_in = {path.parent}  # folders that may forget a name in a power cut
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
        self._kept.append(record)

    def write(self, patience_seconds: float = 0.0, durably: bool = False) -> bool:
        """
        Write what was added; False, and a word in the log, where the disk refuses it.

        Args:
            patience_seconds: How long to go on where it is refused, for whatever reason, or where
                another thread does not come back from the disk.
            durably: Flush the file to the disk too, with all that was written before.
        """
        until = time.monotonic() + patience_seconds
        if not self._lock.acquire(timeout=max(patience_seconds, OTHERS_SECONDS)):
            logger.warning("The %s wait: the disk does not answer who writes them", self._what)
            return False
        try:
            seconds = until - time.monotonic()
            patiently(lambda: self._write(durably), seconds, lambda _: True)
        except OSError as error:  # a full disk must not end a run
            if not self._is_behind:
                logger.warning("The %s could not be written, and wait: %s", self._what, error)
            self._is_behind = True
            return False
        else:
            if self._is_behind:
                logger.info("The %s are written", self._what)
            self._is_behind = self._has_told = False
            return True
        finally:
            self._lock.release()

    def _write(self, durably: bool) -> None:
        records = self._kept[self._num_written :]  # more may be added meanwhile
        flushes = durably or self._added - self._flushed > MOST_UNFLUSHED_BYTES
        if not records and not (flushes and self._kept):
            return
        data = b"".join(records)
        try:
            with naming(self.path):
                self._put(data, flushes and not self._is_scratch)
        except OSError:
            # What was taken before may be what could not be kept.
            self._written, self._num_written = self._flushed, 0
            raise
        self._written += len(data)
        self._num_written += len(records)
        if flushes or self._is_scratch:
            del self._kept[: self._num_written]
            self._flushed, self._num_written = self._written, 0

    def _put(self, data: bytes, flushes: bool) -> None:
        folder = self.path.parent
        if not self._is_made:
            above = (folder, *folder.parents)
            self._new_names_in |= {each.parent for each in above if not is_there(each)}
            folder.mkdir(parents=True, exist_ok=True)
        anew = 0 if self._is_made else os.O_TRUNC
        # A pipe in its place is refused, and nobody waits for its reader.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK
        descriptor = os.open(self.path, flags | anew, 0o666)
        self._is_made = True
        with os.fdopen(descriptor, "wb") as file:
            file.seek(self._written)
            file.write(data)
            if flushes:
                file.flush()
                os.fsync(descriptor)
        if flushes and self._new_names_in:
            for each in sorted(self._new_names_in):
                sync_folder(each)
            self._new_names_in = set()
