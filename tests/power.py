"""
What a disk still has when the power goes: what was flushed, and nothing that anybody hoped for.

    with Power(folder) as power:
        save()
    power.goes(target)                    # writes what is left of the folder there
    power.goes(target, names=True)

A file has the bytes it had when it was last flushed, and a folder the names. Systems often write names
before anybody asks: then all names are there, and the bytes are still only those that were flushed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from instruct_core.storage import disk, names


class Power:
    """
    Follows what our own disk flushes; what is in the folder already has been.

    Args:
        folder: Whose files are followed.
        before_flush: Called before each flush, when most is at stake.
    """

    def __init__(self, folder: Path, before_flush: Callable[[], object] = lambda: None) -> None:
        self._folder, self._before_flush = folder, before_flush
        self._bytes: dict[int, bytes] = {}  # of files, by inode
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}  # in folders: inode, is a folder
        self._held: list[int] = []  # descriptors, so that no inode is given to another file
        for path in (folder, *folder.rglob("*")):
            self._flush(path)

    def __enter__(self) -> Self:
        for module in (disk, names):
            setattr(module, "os", self)  # noqa: B010  no attribute that a checker knows
        return self

    def __exit__(self, *exc_info: object) -> None:
        for module in (disk, names):
            setattr(module, "os", os)  # noqa: B010
        for descriptor in self._held:
            os.close(descriptor)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        self._before_flush()
        os.fsync(descriptor)
        self._flush(Path(f"/proc/self/fd/{descriptor}").resolve())

    def _flush(self, path: Path) -> None:
        self._held.append(os.open(path, os.O_RDONLY))
        inode = path.stat().st_ino
        if path.is_dir():
            self._names[inode] = _names_in(path)
        else:
            self._bytes[inode] = path.read_bytes()

    def goes(self, target: Path, names: bool = False) -> None:
        """Write what is left into a new folder; with all names that there are, if ``names``."""
        self._leave(self._folder.stat().st_ino, target, self._folder if names else None)

    def _leave(self, inode: int, target: Path, place: Path | None) -> None:
        target.mkdir()
        found = self._names.get(inode, {}) if place is None else _names_in(place)
        for name, (below, is_folder) in found.items():
            if is_folder:
                self._leave(below, target / name, None if place is None else place / name)
            else:
                (target / name).write_bytes(self._bytes.get(below, b""))


def _names_in(folder: Path) -> dict[str, tuple[int, bool]]:
    found = {path.name: path.lstat() for path in folder.iterdir()}
    return {name: (stats.st_ino, stat.S_ISDIR(stats.st_mode)) for name, stats in found.items()}
