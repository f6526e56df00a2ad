"""The second promise where the machine of the disk goes dark: what was flushed is a checkpoint."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from instruct_core.checkpoints.loader import load_newest
from instruct_core.storage.store import Store
from tests.instruct_core.checkpoints.test_crash import (
    begin,
    check_newest,
    check_next_save,
    make_two,
    save,
)
from tests.power import Power


@pytest.mark.parametrize("all_names", [False, True])
def test_power_that_goes_at_any_moment_of_a_save_loses_nothing(
    tmp_path: Path, all_names: bool
) -> None:
    here, number = tmp_path / "here", count()
    make_two(str(here / "run"))

    def cut() -> None:
        power.goes(tmp_path / f"left-{next(number)}", all_names)

    with Power(here, before_flush=cut) as power:
        checkpoints = begin(str(here / "run"))
        load_newest(checkpoints)
        save(checkpoints, 3)
        cut()

    cuts = next(number)
    assert cuts > 8, "a save flushes more than that"
    for at in range(cuts):
        url = str(tmp_path / f"left-{at}" / "run")
        check_next_save(check_newest(url, at_least=3 if at == cuts - 1 else 2), url)


def test_first_save_of_a_run_is_there_when_the_power_has_gone(tmp_path: Path) -> None:
    here, left = tmp_path / "here", tmp_path / "left"
    here.mkdir()

    with Power(here) as power:
        save(begin(str(here / "checkpoints" / "run")), 1)
        power.goes(left)

    assert Store(left / "checkpoints" / "run").exists("committed.json")
    check_newest(str(left / "checkpoints" / "run"), at_least=1)
