"""As many open files as a run's ranks need."""

from __future__ import annotations

import logging
import resource
from types import SimpleNamespace

import pytest

from jobs import open_files
from jobs.open_files import allow_open_files, files_for, most_ranks


class Limits:
    """The system's limits of open files, as `resource` shows them."""

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)
        self.module = SimpleNamespace(
            RLIMIT_NOFILE=resource.RLIMIT_NOFILE, RLIM_INFINITY=resource.RLIM_INFINITY,
            getrlimit=lambda _: self.now, setrlimit=self._set,
        )  # fmt: skip

    def _set(self, _which: int, limits: tuple[int, int]) -> None:
        assert limits[1] == self.now[1], "nobody gets a hard limit back"
        self.now = limits


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (64, 4096, 1220),
        (64, resource.RLIM_INFINITY, 1220),
        (1220, 4096, 1220),
        (2000, 4096, 2000),
        (64, 1000, 1000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_soft_limit_is_raised_as_far_as_needed_and_allowed(
    soft: int, hard: int, raised: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(soft, hard)
    monkeypatch.setattr(open_files, "resource", limits.module)

    allow_open_files(num_ranks=1000)

    assert limits.now == (raised, hard)


def test_hard_limit_that_is_too_low_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(open_files, "resource", Limits(64, 1000).module)

    with caplog.at_level(logging.WARNING):
        allow_open_files(num_ranks=1000)

    [line] = caplog.messages
    assert line.startswith("A run of 1000 ranks may need 1220 open files, and the hard limit")


def test_both_ways_to_count_agree() -> None:
    assert most_ranks(files_for(1000)) == 1000
    assert most_ranks(64) == 0
