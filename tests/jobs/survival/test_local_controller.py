"""The scheduler of a machine without one, with tasks made of a few lines of Python."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from jobs.failures import read_outcome
from jobs.job_folder import ASKS_BACK
from tests.conftest import HANGS_SECONDS, wait_for


def controller(
    folder: Path, script: str, num_tasks: int = 1, modules: Sequence[str] = (), patches: str = ""
) -> subprocess.Popen[bytes]:
    """Start a controller whose tasks run a Python script; each start appends a line to `starts`."""
    head = (
        "import os, sys, time, signal, json, logging, pathlib\n"
        "rank = int(os.environ['SUBMITIT_LOCAL_GLOBALID'])\n"
        "starts = pathlib.Path('starts')\n"
        "def note(word):\n"
        "    with starts.open('a') as f: f.write(f'{word}\\n')\n"
        "note(f'{rank} {os.getpid()}')\n"
        "num = len([s for s in starts.read_text().split('\\n') if s.startswith(f'{rank} ')])\n"
    )
    program = (
        "import logging, pathlib, sys\n"
        "from jobs.survival import local_controller as module\n"
        f"module.call_job = lambda folder: exec({head + script!r}, {{}})\n"
        f"{patches}\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "sys.exit(module.run_job(pathlib.Path(sys.argv[1]), sys.argv[2:]))"
    )
    command = [sys.executable, "-u", "-c", program, str(folder), *modules]
    env = os.environ | {"SUBMITIT_LOCAL_NTASKS": str(num_tasks), "PYTHONPATH": str(folder)}
    with (folder / "controller.err").open("ab") as err:
        return subprocess.Popen(command, cwd=folder, env=env, stderr=err)


def starts(folder: Path) -> list[list[str]]:
    path = folder / "starts"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_crash_without_progress_is_tried_three_times(tmp_path: Path) -> None:
    process = controller(tmp_path, "sys.exit(3)")

    assert process.wait(timeout=HANGS_SECONDS) == 1

    assert len(starts(tmp_path)) == 3


def test_crash_with_progress_is_tried_on(tmp_path: Path) -> None:
    script = (
        "name = 'progress-' + os.environ['INSTRUCT_START'] + '.json'\n"
        "pathlib.Path(name).write_text(json.dumps({'committed': num}))\n"
        "sys.exit(3 if num < 6 else 0)"
    )
    process = controller(tmp_path, script)

    assert process.wait(timeout=HANGS_SECONDS) == 0

    assert len(starts(tmp_path)) == 6


def test_failure_that_a_person_must_fix_is_not_tried_again(tmp_path: Path) -> None:
    report = {
        "utc_seconds": 1.0, "rank": 0, "node": "", "error": "x", "traceback": "", "retry": False
    }  # fmt: skip
    script = (
        "name = 'failure-' + os.environ['INSTRUCT_START'] + '-0.json'\n"
        f"pathlib.Path(name).write_text({json.dumps(json.dumps(report))}); sys.exit(1)"
    )
    process = controller(tmp_path, script)

    assert process.wait(timeout=HANGS_SECONDS) == 1

    assert len(starts(tmp_path)) == 1


def test_rank_that_was_killed_is_named_and_not_the_one_that_has_lost_it(tmp_path: Path) -> None:
    report = {
        "utc_seconds": 1.0, "rank": 0, "node": "", "error": "RuntimeError: Connection closed by peer",
        "traceback": "", "retry": True,
    }  # fmt: skip
    script = (
        "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "name = 'failure-' + os.environ['INSTRUCT_START'] + '-0.json'\n"
        f"pathlib.Path(name).write_text({json.dumps(json.dumps(report))}); sys.exit(1)"
    )
    process = controller(tmp_path, script, num_tasks=2)

    assert process.wait(timeout=HANGS_SECONDS) == 1

    outcome = read_outcome(tmp_path)
    assert outcome is not None
    assert outcome.error.startswith("rank 1: Killed.")


@pytest.mark.parametrize("code", [LOCAL_REQUEUE_RETURN_CODE, ASKS_BACK])
def test_requeue_ends_the_ranks_that_wait_and_starts_all_again_more_than_six_times(
    tmp_path: Path, code: int
) -> None:
    script = (
        f"if rank == 0: sys.exit(0 if num >= 9 else {code})\n"
        "while starts.read_text().count('\\n0 ') < 8: time.sleep(0.02)"
    )
    process = controller(tmp_path, script, num_tasks=2)

    assert process.wait(timeout=HANGS_SECONDS) == 0

    assert sum(entry[0] == "0" for entry in starts(tmp_path)) == 9


def test_one_dead_rank_ends_the_others(tmp_path: Path) -> None:
    script = (
        "if num > 1: sys.exit(0)\n"
        "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(3600)"
    )
    process = controller(tmp_path, script, num_tasks=2)

    assert process.wait(timeout=HANGS_SECONDS) == 0


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_signal_is_passed_on_to_every_task(tmp_path: Path, signum: signal.Signals) -> None:
    script = (
        "if num > 1: sys.exit(0)\n"
        f"signal.signal({int(signum)}, lambda *a: (note('hit'), sys.exit(0)))\n"
        "note('ready')\n"
        "while True: signal.pause()"
    )
    process = controller(tmp_path, script, num_tasks=2)
    wait_for(lambda: starts(tmp_path).count(["ready"]) == 2, "both tasks")

    process.send_signal(signum)

    assert process.wait(timeout=HANGS_SECONDS) == 0  # no other way leads out of a task
    assert starts(tmp_path).count(["hit"]) >= 2  # TERM is repeated as long as one of them runs


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2])
def test_warning_before_a_task_listens_is_a_requeue(tmp_path: Path, signum: signal.Signals) -> None:
    script = "if num > 1: sys.exit(0)\nnote('ready')\ntime.sleep(3600)"
    process = controller(tmp_path, script)
    wait_for(lambda: ["ready"] in starts(tmp_path), "the task")

    process.send_signal(signum)

    assert process.wait(timeout=HANGS_SECONDS) == 0
    assert len([s for s in starts(tmp_path) if s[0] == "0"]) == 2
    assert not (tmp_path / "crashes.json").exists()


def test_warning_before_there_is_a_task_is_a_requeue_too(tmp_path: Path) -> None:
    """The modules are still being loaded, which takes seconds."""
    (tmp_path / "slow.py").write_text(
        "import pathlib, select\n"
        "pathlib.Path('loading').touch()\n"
        "while not pathlib.Path('go').exists(): select.select([], [], [], 0.01)\n"
    )
    is_warned = "'(warned)' in pathlib.Path('controller.err').read_text()"
    script = f"sys.exit(0) if {is_warned} else signal.pause()"
    process = controller(tmp_path, script, modules=["slow"])
    wait_for((tmp_path / "loading").exists, "the loading")

    process.send_signal(signal.SIGUSR2)
    (tmp_path / "go").touch()

    assert process.wait(timeout=HANGS_SECONDS) == 0
    assert "(warned); starting again" in (tmp_path / "controller.err").read_text()


def test_warnings_before_a_task_listens_come_to_an_end_with_advice(tmp_path: Path) -> None:
    process = controller(tmp_path, "os.kill(os.getpid(), signal.SIGUSR2); time.sleep(3600)")

    assert process.wait(timeout=HANGS_SECONDS) == 1

    assert len(starts(tmp_path)) == 10
    outcome = read_outcome(tmp_path)
    assert outcome is not None
    assert "warned 10 times in a row" in outcome.error


def test_full_disk_is_no_end_for_a_job_that_has_been_restarted_often(tmp_path: Path) -> None:
    (tmp_path / "crashes.json").mkdir()  # nothing can be counted
    script = (
        "name = 'progress-' + os.environ['INSTRUCT_START'] + '.json'\n"
        "pathlib.Path(name).write_text(json.dumps({'committed': num}))\n"
        "sys.exit(3 if num < 23 else 0)"
    )
    process = controller(tmp_path, script)

    assert process.wait(timeout=HANGS_SECONDS) == 0

    assert len(starts(tmp_path)) == 23


def test_stop_reaches_a_task_that_ignores_the_first_one(tmp_path: Path) -> None:
    script = (
        "signal.signal(signal.SIGTERM, lambda *a: signal.signal(signal.SIGTERM, signal.SIG_DFL))\n"
        "note('ready')\n"
        "while True: time.sleep(3600)"
    )
    process = controller(tmp_path, script)
    wait_for(lambda: ["ready"] in starts(tmp_path), "the task")

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=HANGS_SECONDS) == 0
    assert len([s for s in starts(tmp_path) if s[0] == "0"]) == 1


def test_killed_controller_takes_its_tasks_with_it(tmp_path: Path) -> None:
    process = controller(tmp_path, "note('ready'); time.sleep(3600)", num_tasks=2)
    wait_for(lambda: starts(tmp_path).count(["ready"]) == 2, "both tasks")
    pids = [int(entry[1]) for entry in starts(tmp_path) if len(entry) == 2]

    process.kill()
    process.wait()

    assert len(pids) == 2
    wait_for(lambda: not any(is_alive(pid) for pid in pids), "the tasks' end")
