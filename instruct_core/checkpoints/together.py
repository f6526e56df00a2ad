"""
A part of a save that all ranks do, or rank 0 for all: it works on each, or is raised on each.

    written = together(group, lambda: put_own_files())     # [what each rank returned]
    on_rank_0(group, lambda: commit())                     # its answer, on every rank

What rank 0 alone has to say goes along a tree, to each rank once; what all say goes round to all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from instruct_core import ranks
from instruct_core.errors import FencedError


class _Done(NamedTuple):
    """What came of a part of a save on one rank, for the others."""

    value: Any
    told: str = ""  # of a failure
    number: int | None = None  # errno
    fenced: bool = False


def together(group: Any, work: Callable[[], Any]) -> list[Any]:
    """
    Do a part of a save on every rank; return what each returned, as JSON has it.

    Args:
        group: Of all ranks, for this thread.
        work: What each does.

    Raises:
        FencedError: A rank found that a newer attempt has begun.
        OSError: It failed on a rank.
    """
    done, problem = _try(work)
    gathered = [_Done(*each) for each in ranks.gather_from_ranks(done, group)]
    if problem is not None:
        raise problem
    for each in gathered:
        _raise_if_failed(each)
    return [each.value for each in gathered]


def on_rank_0(group: Any, work: Callable[[], Any]) -> Any:
    """Do a part of a save on rank 0; return on all ranks what it returned. As `together`."""
    done, problem = _try(work) if ranks.rank() == 0 else (None, None)
    told = _Done(*ranks.value_of_rank_0(done, group))
    if problem is not None:
        raise problem
    _raise_if_failed(told)
    return told.value


def _try(work: Callable[[], Any]) -> tuple[_Done, Exception | None]:
    """Return what to tell of a piece of work, and what it raised: all ranks raise it then."""
    try:
        return _Done(work()), None
    except Exception as error:
        told, number = f"rank {ranks.rank()}: {error}", getattr(error, "errno", None)
        return _Done(None, told, number, isinstance(error, FencedError)), error


def _raise_if_failed(done: _Done) -> None:
    if done.fenced:
        raise FencedError(done.told)
    if done.told:
        raise OSError(done.number, done.told) if done.number else OSError(done.told)
