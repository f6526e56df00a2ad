"""
What a check has found: a value, which one place prints.

    ok("requeue", "JobRequeue=1")
    fails("flock", "the disk refuses it (No locks available)", "Give --checkpoints another place")
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from instruct_core.errors import InstructError
from launch.console.lines import one_line

State = Literal["ok", "note", "would fail"]


class Finding(NamedTuple):
    """One check: of what, how it is, what was found, and what to do about it."""

    name: str
    state: State
    found: str
    fix: str = ""

    @property
    def line(self) -> str:
        """It as one line, whatever a program that was asked has said."""
        text = f"{self.found}. {self.fix}" if self.fix else self.found
        return one_line(" ".join(text.split()))


def ok(name: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(name, "ok", found)


def note(name: str, found: str, fix: str = "") -> Finding:
    """Return what nothing fails of, and a person should know."""
    return Finding(name, "note", found, fix)


def fails(name: str, found: str, fix: str) -> Finding:
    """Return what a run would be refused for, would fail of, or would lose promised steps by."""
    return Finding(name, "would fail", found, fix)


def refused(name: str, error: InstructError | OSError, fix: str = "") -> Finding:
    """Return what an error says; the sentences after its first are what to do, if nothing better is."""
    found, _, said = str(error).partition(". ")
    return fails(name, found.rstrip("."), fix or said.rstrip("."))
