"""A run of two ranks that is asked this and that from outside, as a teammate or cron does."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from tests.conftest import events_of, launch, start, wait_for
from tests.tiny_runs import arguments, count, final_hashes, held, run_of
from tests.warm_launchers import Launcher

FAR = ["--max-steps=100000", "--decay-steps=100000", "--save-every=100000", "--eval-every=100000"]


def told(cwd: Path, *words: str) -> None:
    """Ask the run, which takes no step meanwhile: all that it takes is trained once more."""
    with held(run_of(cwd)):
        result = launch("control", "r", *words, cwd=cwd)
    assert result.returncode == 0, result.stderr


def asked(cwd: Path) -> list[tuple[str, str]]:
    """Return what the ledger says was asked, with the event that follows."""
    events = [event for event in events_of(run_of(cwd)) if event["event"] != "evaluated"]
    return [(a["verb"], b["event"]) for a, b in pairwise(events) if a["event"] == "asked"]


def test_run_that_is_saved_paused_resumed_and_extended_ends_with_the_bits_of_one_begun_so(
    tmp_path: Path, light_shards: Path, killed_after_test: list[Launcher]
) -> None:
    cwd, undisturbed = tmp_path / "asked", tmp_path / "undisturbed"
    cwd.mkdir()
    undisturbed.mkdir()
    launcher = start("finetune", *arguments(light_shards, 2, *FAR), cwd=cwd)
    killed_after_test.append(launcher)
    wait_for(lambda: count(cwd, "resumed"), "the first attempt")

    told(cwd, "save")
    wait_for(lambda: count(cwd, "saved"), "the save")
    told(cwd, "pause")
    assert launcher.wait(240) == 130
    resumed = launch("control", "r", "resume", cwd=cwd)
    assert resumed.returncode == 0
    wait_for(lambda: count(cwd, "resumed") == 2, "the second attempt")
    told(cwd, "extend", "200000")
    wait_for(lambda: count(cwd, "asked") == 3, "the later end")
    told(cwd, "stop")
    wait_for(lambda: count(cwd, "stopped"), "the end")

    assert "Ctrl-C" not in resumed.stdout  # it has returned
    assert re.search(r"; save and end it: \S*python\S* \S*control.py r stop", resumed.stdout)
    assert asked(cwd)[:2] == [("save", "saved"), ("pause", "paused")]
    assert asked(cwd)[-1] == ("stop", "stopped")
    last = events_of(run_of(cwd))[-1]["step"]
    begun_so = [*arguments(light_shards, 2, *FAR), f"--max-steps={last}"]
    assert launch("finetune", *begun_so, cwd=undisturbed).returncode == 0
    assert final_hashes(cwd, last) == final_hashes(undisturbed, last)
