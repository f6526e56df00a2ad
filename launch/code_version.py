"""Which code a run is made with: the git commit, and how the files differ from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

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
