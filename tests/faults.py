"""
Faults at every operation of a save: killed before it or half way, or refused with an error.

    with Faults(DISK, at=7, error=ENOSPC) as faults: save()
    died = run_in_child(lambda: save_under(Faults(DISK, at=7, kill="before")))

An operation is a system call of this thread that changes a disk, or a request to an object store.
They are counted, so a test can go on until a save has no more of them.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Self

import s3fs
from botocore.exceptions import ClientError

DISK = ("open", "write", "fsync", "close", "mkdir", "link", "unlink", "rename", "replace", "rmdir")
READ_FROM_S3 = ("get_", "head_", "list_")  # how the names of such requests begin
Error = Callable[[], Exception]


def of_errno(number: int) -> Error:
    return lambda: OSError(number, os.strerror(number))


ENOSPC, EIO, EACCES = (of_errno(n) for n in (errno.ENOSPC, errno.EIO, errno.EACCES))


def timeout() -> Exception:
    return TimeoutError(errno.ETIMEDOUT, "timed out")


def busy() -> Exception:
    """Return what an S3 client makes of the answer 503."""
    answer = {"Error": {"Code": "ServiceUnavailable", "Message": "Please reduce your request rate"}}
    return ClientError(answer, "PutObject")


class Faults:
    """
    Counts operations, and has one of them, or some, go wrong.

    Args:
        at: Number of the operation, from 1; 0 for none.
        kill: End this process "before" it, or "half" way through a write, where writes alone count.
        error: Makes what is raised instead of doing it.
        times: How many operations in a row are refused with the error.
        spoil: Does a write in another way: given its data, returns what is really written.
    """

    def __init__(
        self,
        at: int = 0,
        kill: str = "",
        error: Error | None = None,
        times: int = 1,
        spoil: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._at, self._kill, self._error, self._times = at, kill, error, times
        self._spoil = spoil
        self.count = 0
        self._thread = 0
        self._originals: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._thread = threading.get_ident()
        for name in DISK:
            self._originals[name] = getattr(os, name)
            setattr(os, name, self._on_disk(name))
        self._call_s3 = s3fs.S3FileSystem._call_s3
        s3fs.S3FileSystem._call_s3 = self._on_s3()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name, original in self._originals.items():
            setattr(os, name, original)
        s3fs.S3FileSystem._call_s3 = self._call_s3

    def _is_due(self) -> bool:
        self.count += 1
        return self._at <= self.count < self._at + self._times

    def _on_disk(self, name: str) -> Callable[..., Any]:
        original = self._originals[name]

        def operation(*args: Any, **options: Any) -> Any:
            if threading.get_ident() != self._thread:
                return original(*args, **options)
            counts = name != "write" or self._spoil is None or len(args[1]) > 0
            if (self._spoil is not None or self._kill == "half") and name != "write":
                return original(*args, **options)
            if not counts or not self._is_due():
                return original(*args, **options)
            if self._error is not None:
                if name == "close":
                    original(*args, **options)  # the descriptor is gone all the same
                raise self._error()
            if self._spoil is not None:
                original(args[0], self._spoil(bytes(args[1])))
                return len(args[1])  # and reports success
            try:
                if self._kill == "half":
                    original(args[0], bytes(args[1])[: len(args[1]) // 2])
            finally:
                os.kill(os.getpid(), signal.SIGKILL)

        return operation

    def _on_s3(self) -> Callable[..., Any]:
        original = self._call_s3

        async def call_s3(fs: Any, method: str, *args: Any, **options: Any) -> Any:
            # What is only read leaves nothing behind: a kill there is one before the next change.
            leaves_nothing = self._kill and method.startswith(READ_FROM_S3)
            if leaves_nothing or not self._is_due():
                return await original(fs, method, *args, **options)
            if self._error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise s3fs.errors.translate_boto_error(self._error()) from None

        return call_s3


def run_in_child(work: Callable[[], None]) -> bool:
    """Run ``work`` in a forked process; return True if it came to its end, False if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) == 0, "the child failed"
    return True
