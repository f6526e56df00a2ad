"""
Runs a module whose code lies on a disk that may fail for a while: what cannot be read is read again.

    python -m jobs.patient jobs.survival.comeback 19    # calls its main()
    load("jobs.attempt")                                # before something is imported from it

Python reads hundreds of files before a program's first line could be patient with any of them. Of these
only this one must be read at once. What has been read stays, so each try comes further.

Python takes what it cannot look at for something that is not there, and looks in the next place: where
the project is installed for editing, that has the code of today instead of the job's own. So a job's own
modules come from its folder or not at all; and others are not looked for there, as some, torch above
all, cannot be imported a second time when the first was broken off.
"""

from __future__ import annotations

import errno
import importlib
import logging
import sys
import time
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from traceback import walk_tb
from types import ModuleType
from typing import TypeVar

CODE_SECONDS = 900.0  # for a disk that says that it fails
NOT_FOUND_SECONDS = 20.0  # Python takes a folder that it cannot look at for one that is not there
PAUSE_SECONDS = 0.5
LASTING = {None, errno.EACCES, errno.EPERM, errno.ENOENT}
PACKAGES = ("jobs", "instruct_core")  # that a job has a copy of
T = TypeVar("T")


class ReadInPartError(OSError):
    """A package was broken off while it was read: this process can never have it."""

    def __init__(self, problem: Exception, patience_seconds: float) -> None:
        super().__init__(errno.EIO, f"the code was read in part: {problem}")
        self.patience_seconds = patience_seconds  # with what broke it off, for another process


class OnlyFrom(MetaPathFinder):
    """Finds a job's own modules in one folder, and says of what is not there that it is nowhere."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find_spec(
        self, name: str, _path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        *packages, _ = name.split(".")
        if name.partition(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(name, [str(self._folder.joinpath(*packages))], target)
        if spec is None or spec.origin is None:  # or a package without its first file
            raise ModuleNotFoundError(f"No module named {name!r} in {self._folder}", name=name)
        return spec


def read_code(read: Callable[[], T]) -> T:
    """
    Call what imports something until the disk lets it.

    Raises:
        OSError: The disk has not, for CODE_SECONDS.
        ReadInPartError: It has, and what it broke off cannot be read once more in this process.
        ImportError: Something is not there, or the disk has not shown it in NOT_FOUND_SECONDS.
    """
    failed_at = patience = 0.0
    while True:
        importlib.invalidate_caches()
        try:
            return read()
        except Exception as error:
            if not isinstance(error, OSError | ImportError) or not _may_be_unread(error):
                if not failed_at:
                    raise
                raise ReadInPartError(error, patience) from error
            now = time.monotonic()
            if not failed_at:
                logging.getLogger(__name__).warning("The code is read again: %s", error)
            failed_at, patience = failed_at or now, _patience_with(error)
            if now >= failed_at + patience:
                raise
        time.sleep(PAUSE_SECONDS)


def _may_be_unread(error: OSError | ImportError) -> bool:
    """Return True but for a name that a package of others lacks: of ours, it may be a file."""
    if isinstance(error, OSError | ModuleNotFoundError):
        return True
    return (error.name or "").partition(".")[0] in PACKAGES


def _patience_with(error: OSError | ImportError) -> float:
    if isinstance(error, ImportError):
        return NOT_FOUND_SECONDS
    return 0.0 if error.errno in LASTING else CODE_SECONDS


def was_reading_code(error: BaseException) -> bool:
    """
    Return True for what Python says where a disk has not shown it all of the job's own copy of its code.

    Modules are also imported where they are first needed, beyond any patience. A module or a name of it
    is then missing, or a file, or the folder that the job is in. What other packages lack, a node may
    lack.
    """
    if isinstance(error, ImportError):
        return (error.name or "").partition(".")[0] in PACKAGES
    modules = [
        frame for frame, _ in walk_tb(error.__traceback__) if frame.f_code.co_name == "<module>"
    ]
    # Python 3.13.0 looks for its folder to say which name is missing, and says this without one.
    if not modules or not isinstance(error, OSError | AttributeError | SystemError):
        return False
    has_no_folder = isinstance(error, FileNotFoundError) and error.filename is None
    code = Path(__file__).resolve().parents[1]
    own = [code / package for package in PACKAGES]
    place = Path(modules[-1].f_code.co_filename).resolve()
    return has_no_folder or any(place.is_relative_to(folder) for folder in own)


def load(name: str) -> ModuleType:
    """Return a module, imported as `read_code` does it."""
    return read_code(lambda: importlib.import_module(name))


def main() -> None:
    """Call the main of the module that is named first, with the words after it."""
    if sys.flags.safe_path:  # in a job: its code is the first place
        sys.meta_path.insert(0, OnlyFrom(Path(sys.path.pop(0))))
    del sys.argv[0]
    sys.exit(load(sys.argv[0]).main())


if __name__ == "__main__":
    main()
