"""Which code a job runs: a copy in its folder, its git commit, and how the files differ from it."""

from __future__ import annotations

import compileall
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from instruct_core.storage.looks import entries_below
from instruct_core.storage.patience import NO_ROOM, on_a_disk

CODE = "code"  # folder of a job with the code it runs

LONGEST_DIFFERENCE = 200_000  # characters kept; the code itself is in the job's folder


def code_version() -> str:
    """Return the git commit of this code, with "+changes" where files differ from it."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return "unknown"
    return commit.strip() + (
        "+changes" if (_git("status", "--porcelain", "-uno") or "").strip() else ""
    )


def code_difference() -> str:
    """Return how tracked files differ from the commit, as `git diff` prints it; "" if not at all."""
    return (_git("diff", "HEAD") or "")[:LONGEST_DIFFERENCE]


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode(errors="replace")


def freeze_code(folder: Path) -> None:
    """
    Copy the code that a job runs into its folder: a requeue must not run edited files.

    What Python has compiled of it goes along: else every rank would compile it at its first start, and
    write it there.

    Args:
        folder: Of the job, and empty.

    Raises:
        OSError: A file could not be copied; names the first. The folder goes again: on a full disk too,
            where the newest job is what others look at.
    """
    here = Path(__file__).resolve().parents[2]
    try:
        for package in ("jobs", "instruct_core"):
            for source in [*_sources(here / package), *_compiled(here / package)]:
                _copy(source, folder / CODE / source.relative_to(here))
    except OSError as error:
        make_room = "Make room, and give" if error.errno in NO_ROOM else "Give"
        shutil.rmtree(folder / CODE, ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()
        raise OSError(
            f"the code could not be copied: {error.filename2 or error.filename}: {error.strerror}. "
            f"{make_room} the command again."
        ) from None


def _sources(package: Path) -> list[Path]:
    return on_a_disk(package, lambda: entries_below(package, "*.py"))


def _compiled(package: Path) -> list[Path]:
    """
    Return the compiled modules. One whose source is another by its size or time is read by nobody, and
    one whose source is gone is left out.
    """
    if not sys.dont_write_bytecode:
        compileall.compile_dir(package, quiet=2)  # what an import would write; nothing on a failure
    pattern = f"*.{sys.implementation.cache_tag}.pyc"
    found = on_a_disk(package, lambda: entries_below(package, pattern))
    sources = {source.parent / "__pycache__" / source.stem for source in _sources(package)}
    return [path for path in found if path.with_name(path.name.partition(".")[0]) in sources]


def _copy(source: Path, target: Path) -> None:
    on_a_disk(target, lambda: target.parent.mkdir(parents=True, exist_ok=True))
    on_a_disk(target, lambda: shutil.copy2(source, target))
