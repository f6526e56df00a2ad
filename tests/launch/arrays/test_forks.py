"""Forks that share parts of a work: in which order one hears of it, and how all of them end."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from instruct_core.errors import BadRowError, ConfigError
from launch.arrays.forks import in_forks
from tests.conftest import environment, wait_for

ORPHANS = """
import os, signal
from launch.arrays.forks import in_forks

def work(part):
    os.write(1, f"{os.getpid()}\\n".encode())
    signal.pause()

list(in_forks(2, lambda number: work, range(2)))
"""


def squared(_number: int) -> Callable[[int], int]:
    return lambda part: part * part


def test_answers_come_in_the_order_of_the_parts_however_many_forks_there_are() -> None:
    assert list(in_forks(3, squared, range(40))) == [n * n for n in range(40)]


def test_forks_look_for_circles_less_often_than_python_does() -> None:
    def make(_number: int) -> Callable[[int], int]:
        return lambda part: gc.get_threshold()[0]

    assert max(in_forks(1, make, [0])) > 10 * gc.get_threshold()[0]


def test_every_fork_has_a_number_of_its_own() -> None:
    def make(number: int) -> Callable[[int], tuple[int, int]]:
        return lambda part: (number, os.getpid())

    found = set(in_forks(2, make, range(60)))

    assert {number for number, _ in found} <= {0, 1}
    assert len({number for number, _ in found}) == len(found)
    assert os.getpid() not in {pid for _, pid in found}


def test_failure_of_a_part_comes_before_what_the_search_for_others_met() -> None:
    def make(_number: int) -> Callable[[int], int]:
        def work(part: int) -> int:
            if part == 2:
                raise BadRowError("Row 2 cannot be used.")
            return part

        return work

    def parts() -> Iterator[int]:
        yield from range(4)
        raise BadRowError("Row 99 is not JSON.")

    with pytest.raises(BadRowError, match=r"Row 2 cannot"):
        list(in_forks(2, make, parts()))
    with pytest.raises(BadRowError, match=r"Row 99 is"):
        list(in_forks(2, squared, parts()))


def test_fork_that_is_killed_is_one_line() -> None:
    def make(_number: int) -> Callable[[int], None]:
        return lambda part: os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ConfigError, match=r"was killed.*--array-parallelism 1"):
        list(in_forks(2, make, range(9)))


def test_environment_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    before = dict(os.environ)

    def make(_number: int) -> Callable[[int], str | None]:
        return lambda part: os.environ.get("TOKENIZERS_PARALLELISM")

    assert set(in_forks(2, make, range(3))) == {"false"}
    assert dict(os.environ) == before


def test_forks_end_with_the_process_that_is_killed() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, env=environment(), text=True,
    )  # fmt: skip
    assert process.stdout is not None
    forks = [os.pidfd_open(int(process.stdout.readline())) for _ in range(2)]

    process.kill()
    process.wait()

    for fork in forks:
        wait_for(lambda fork=fork: _has_ended(fork), "a fork to end")  # type: ignore[misc]
        os.close(fork)
    process.stdout.close()


def _has_ended(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0.05)[0])
