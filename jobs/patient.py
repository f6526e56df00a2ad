"""
Runs a module whose code lies on a disk that may fail for a while: what cannot be read is read again.

    python -m jobs.patient jobs.survival.comeback 19    # calls its main()
    load("jobs.attempt")                                # before something is imported from it

Python reads hundreds of files before a program's first line could be patient with any of them. Of these
only this one must be read at once. What has been read stays, so each try comes further.
"""

from __future__ import annotations

import errno
import importlib
import logging
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

CODE_SECONDS = 900.0  # for a disk that says that it fails
NOT_FOUND_SECONDS = 20.0  # Python takes a folder that it cannot look at for one that is not there
PAUSE_SECONDS = 0.5
LASTING = {None, errno.EACCES, errno.EPERM, errno.ENOENT}
T = TypeVar("T")


def read_code(read: Callable[[], T]) -> T:
    """
    Call what imports something until the disk lets it.

    Raises:
        OSError: The disk has not, for CODE_SECONDS.
        ModuleNotFoundError: Something is not there, or the disk has not shown it in NOT_FOUND_SECONDS.
    """
    failed_at = 0.0
    while True:
        importlib.invalidate_caches()
        try:
            return read()
        except (OSError, ModuleNotFoundError) as error:
            now = time.monotonic()
            if not failed_at:
                logging.getLogger(__name__).warning("The code is read again: %s", error)
            failed_at = failed_at or now
            if now >= failed_at + _patience_with(error):
                raise
        time.sleep(PAUSE_SECONDS)


def _patience_with(error: OSError | ImportError) -> float:
    if isinstance(error, ImportError):
        return NOT_FOUND_SECONDS
    return 0.0 if error.errno in LASTING else CODE_SECONDS


def load(name: str) -> ModuleType:
    """Return a module, imported as `read_code` does it."""
    return read_code(lambda: importlib.import_module(name))


def main() -> None:
    """Call the main of the module that is named first, with the words after it."""
    del sys.argv[0]
    sys.exit(load(sys.argv[0]).main())


if __name__ == "__main__":
    main()
