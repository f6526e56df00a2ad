"""
The bytes of a source, asked for again where its disk or its server fails in passing.

    with open_source("s3://bucket/rows.jsonl") as file:
        file.seek(812)
    asked("rows.jsonl", lambda: fs.info("rows.jsonl"))

A source is read for hours, and from any row on. Where it ends before its size, something was cut off.
"""

from __future__ import annotations

import errno
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from instruct_core.errors import ConfigError
from instruct_core.storage.patience import naming, passes_on_a_disk, patiently
from instruct_core.storage.plain_errors import may_pass, plain_errors

BLOCK_BYTES = 8 << 20  # of an object store, fetched at once
BUFFER_BYTES = 1 << 20
PATIENCE_SECONDS = 60.0
T = TypeVar("T")


@contextmanager
def open_source(url: str) -> Iterator[io.BufferedReader]:
    """
    Open a source for reading; one that lies in an object store is fetched in large pieces.

    Raises:
        ConfigError: It is on a server that gives files from their beginning alone, and that is not asked.
        OSError: It cannot be read, for as long as our patience lasts.
    """
    # A store's file by itself looks through a whole block for every line.
    raw: Any = _PatientFile(url)
    with raw, io.BufferedReader(raw, BUFFER_BYTES) as file:
        yield file


def asked(url: str, call: Callable[[], T]) -> T:
    """
    Return what a source's disk or server says, which is asked again where it fails in passing.

    Raises:
        ConfigError: The server gives files from their beginning alone.
        OSError: It still fails, or the file is not there.
    """
    if not _is_remote(url):
        with naming(Path(url)):
            return patiently(call, PATIENCE_SECONDS, passes_on_a_disk)

    def once() -> T:
        with plain_errors(url):
            try:
                return call()
            except ValueError as error:  # fsspec's, and no failure
                problem = " ".join(str(error).split(". ")[0].split()).rstrip(".")
        raise ConfigError(
            f"Source {url} cannot be read from any row on: {problem}. Fetch it, and give the file."
        )

    return patiently(once, PATIENCE_SECONDS, may_pass)


def _is_remote(url: str) -> bool:
    return "://" in url


class _PatientFile(io.RawIOBase):
    """A file that is opened anew, at the same place, where reading it has failed."""

    def __init__(self, url: str) -> None:
        self._url, self._offset = url, 0
        self._file: Any = None
        self._fs, self._path = fsspec.core.url_to_fs(url)
        self._try(lambda file: file)

    def _try(self, call: Callable[[Any], T]) -> T:
        return asked(self._url, lambda: self._once(call))

    def _once(self, call: Callable[[Any], T]) -> T:
        try:
            if self._file is None:
                self._file = self._fs.open(self._path, "rb", block_size=BLOCK_BYTES)
            return call(self._file)
        except Exception:  # a client has kinds of its own
            self._forget()
            raise

    def _forget(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def readinto(self, buffer: Any) -> int:
        def read(file: Any) -> int:
            if file.tell() != self._offset:
                file.seek(self._offset)
            count = int(file.readinto(buffer))
            size = (
                getattr(file, "size", None) if _is_remote(self._url) else None
            )  # as a server says
            if not count and isinstance(size, int) and self._offset < size:
                what = f"{self._url} ends after {self._offset} of {size} bytes"
                raise OSError(errno.EIO, what)
            return count

        count = self._try(read)
        self._offset += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            self._offset = self._try(lambda file: int(file.seek(offset, whence)))
        else:
            self._offset = offset + (self._offset if whence == io.SEEK_CUR else 0)
        return self._offset

    def tell(self) -> int:
        return self._offset

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._forget()
        super().close()
