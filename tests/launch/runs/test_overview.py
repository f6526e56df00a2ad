"""launch/status.py: all runs at a glance, one run over time, and two side by side."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from instruct_core.events import Evaluated, Saved
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store
from jobs.events import Crashed, Resumed, Started
from jobs.ledger import Ledger
from launch.cluster.slurm import Controller
from launch.flags.status import Status
from launch.runs.document import document_of_run
from launch.runs.overview import show_status
from launch.runs.pace import left_of
from tests.launch.played_slurm import PlayedSlurm
from tests.launch.runs.test_status import leave, queued, status_of

# Every state and flag of slurm.schedmd.com/job_state_codes.html.
STATES = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "COMPLETING", "CONFIGURING", "DEADLINE", "EXPEDITING",
    "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PENDING", "POWER_UP_NODE", "PREEMPTED",
    "RECONFIG_FAIL", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "RESV_DEL_HOLD", "REVOKED",
    "RUNNING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "SUSPENDED", "TIMEOUT", "UPDATE_DB",
)  # fmt: skip
HOSTILE = "<b>\x1b[2J\u202ebold[/red]\r\nnext"


def test_slurm_that_is_away_is_asked_once_for_all_runs(
    project: Path, slurm: PlayedSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    queued(project, slurm)
    shutil.copytree(project / "checkpoints" / "r", project / "checkpoints" / "other")
    slurm.is_away()

    show_status(Status(checkpoints=str(project / "checkpoints"), shards=str(project)))

    assert capsys.readouterr().out.count("unknown (Slurm does not answer)") == 2
    assert len(slurm.asked("scontrol")) == 1


@pytest.mark.parametrize("state", STATES)
def test_run_in_any_state_of_slurm_is_shown_with_it(
    project: Path, slurm: PlayedSlurm, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = queued(project, slurm, JobState=state)
    leave(project, "progress-0000000001-0000.json", state="running", global_step=4)

    show_status(Status(checkpoints=str(project / "checkpoints"), shards=str(project)))

    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(" r ")]
    told = "stopped" if state == "CANCELLED" else state  # by a person, as where the ranks say so
    assert status.state() == told
    assert line.split()[1:5] == [told, "1", "4", "of"]
    ends_badly = state in (
        "BOOT_FAIL",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "TIMEOUT",
        "DEADLINE",
        "PREEMPTED",
    )
    assert ("the same command goes on from the last save" in line) == ends_badly
    assert ("scontrol release 1" in line) == (
        state in ("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
    )


def test_slurm_that_answers_is_asked_once_for_all_runs(
    project: Path, slurm: PlayedSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    queued(project, slurm, JobState="RUNNING")
    shutil.copytree(project / "checkpoints" / "r", project / "checkpoints" / "other")
    asked = len(slurm.asked("scontrol"))

    show_status(Status(checkpoints=str(project / "checkpoints"), shards=str(project)))

    assert capsys.readouterr().out.count(" RUNNING ") == 2
    assert len(slurm.asked("scontrol")) == asked + 1


def test_array_is_found_among_all_jobs(slurm: PlayedSlurm, tmp_path: Path) -> None:
    lines = [
        "JobId=8 ArrayJobId=7 ArrayTaskId=1",
        "JobId=7 ArrayJobId=7 ArrayTaskId=2-3",
        "JobId=77",
    ]
    for line in lines:
        words = f"{line} JobState=RUNNING Reason=None\n"
        (tmp_path / "slurm/jobs" / line.split()[0].partition("=")[2]).write_text(words)

    records = Controller(for_all=True).records("7")

    assert sorted(record.job_id for record in records) == ["7_1", "7_[2-3]"]


def test_what_a_kill_would_cost_now_is_told(project: Path, slurm: PlayedSlurm) -> None:
    queued(project, slurm, JobState="RUNNING")
    ledger = Ledger(Store(project / "runs" / "r"), attempt=0)
    ledger.note(Resumed(step=0))
    ledger.note(Saved(step=5, seconds=0.1))
    leave(
        project, "progress-0000000001-0000.json", state="running", global_step=9, loss=2.5,
        tokens_per_second=65536.0,
    )  # fmt: skip

    document = document_of_run(status_of(project))
    slurm.change("1", JobState="PENDING")
    waiting = document_of_run(status_of(project))

    assert (document["unsaved_steps"], document["saved_step"], document["loss"]) == (4, 5, 2.5)
    assert document["unsaved_seconds"] >= 0
    assert document["seconds_left"] == 1.0  # a step of 65,536 tokens
    assert waiting["unsaved_steps"] is None


def test_starts_that_are_left_are_counted_by_the_time_limit_that_was_asked_for(
    project: Path, slurm: PlayedSlurm
) -> None:
    store = Store(project / "checkpoints" / "r")
    document = json.loads(store.read("run.json"))
    store.replace("run.json", dump_document(document | {"asked": {"slurm": {"time": 10}}}))
    queued(project, slurm)
    leave(project, "progress-0000000001-0000.json", global_step=0, tokens_per_second=655.36)

    left = left_of(status_of(project))

    assert left is not None
    assert (left.seconds, left.starts) == (1000.0, 2)


def test_attempts_of_a_run_tell_what_each_lost_and_when_it_was(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Store(project / "runs" / "r")
    for attempt, first, last in ((0, 0, 7), (1, 5, 9)):
        ledger = Ledger(runs, attempt)
        ledger.note(Resumed(step=first), 1000.0 + 100 * attempt)
        ledger.note(Saved(step=last, seconds=1.0), 1050.0 + 100 * attempt)

    show_status(Status("r", checkpoints=str(project / "checkpoints")))

    out = capsys.readouterr().out
    attempts = status_of(project).attempts()
    assert [attempt.steps_lost for attempt in attempts] == [2, None]
    assert [attempt.ended_at for attempt in attempts] == [1050.0, 1150.0]
    assert "2 steps  ███████·············  lost without a word" in out
    assert "·············███████  lost without a word" in out


def test_watched_status_is_shown_again_until_ctrl_c(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses = iter([None])

    def pause(_: float) -> None:
        if next(pauses, "") == "":
            raise KeyboardInterrupt

    monkeypatch.setattr("launch.runs.overview.pause", pause)

    exit_code = show_status(
        Status(checkpoints=str(project / "checkpoints"), shards=str(project), watch=True, json=True)
    )

    lines = capsys.readouterr().out.splitlines()
    assert exit_code == 0
    assert [json.loads(line)["runs"][0]["run"] for line in lines] == ["r", "r"]


def test_two_runs_are_compared_by_settings_data_and_results(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = project / "checkpoints"
    document = json.loads((checkpoints / "r/run.json").read_text())
    document["config"] |= {"run": "other", "learning_rate": 0.5, "data_fingerprint": "g"}
    Store(checkpoints / "other").replace("run.json", dump_document(document))
    Ledger(Store(project / "runs" / "other"), 0).note(Evaluated(10, 1.523456789012345))

    show_status(Status("r", checkpoints=str(checkpoints), diff="other"))
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    show_status(Status("r", checkpoints=str(checkpoints), diff="other", json=True))
    found = json.loads(capsys.readouterr().out)
    show_status(Status("r", checkpoints=str(checkpoints), diff="r"))

    assert ["settings", "learning_rate", "2e-05", "0.5"] in said
    assert not any("seq_len" in line for line in said)
    assert found["runs"] == ["r", "other"]
    assert found["differences"]["settings"] == {"learning_rate": [2e-05, 0.5]}
    assert found["differences"]["data"] == {"data_fingerprint": ["f", "g"]}
    assert found["differences"]["results"]["best val loss"] == [None, 1.523456789012345]
    assert ["results", "best", "val", "loss", "1.52346"] in said
    assert "Runs r and r do not differ." in capsys.readouterr().out


def test_difference_needs_two_runs(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"--diff r needs another run: status\.py RUN --diff r"):
        show_status(Status(checkpoints=str(project / "checkpoints"), diff="r"))


def test_text_of_others_moves_no_cursor_and_makes_no_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(Store(project / "runs" / "r"), attempt=0)
    ledger.note(Started(0, HOSTILE, 1, HOSTILE, [1], [HOSTILE]))
    ledger.note(Crashed(HOSTILE, HOSTILE, False, HOSTILE, HOSTILE))
    leave(project, "progress-0000.json", state="running", global_step=4)
    leave(project, "failed.json", start="0000", error=HOSTILE, traceback="", retry=True)
    checkpoints = str(project / "checkpoints")

    show_status(Status(checkpoints=checkpoints, shards=str(project)))
    overview = capsys.readouterr().out
    show_status(Status("r", checkpoints=checkpoints))
    one = capsys.readouterr().out

    shown = "<b>\\u001b[2J\\u202ebold[/red] ↵ next"
    assert overview.count(shown) == 1
    assert overview.count("\n") == 2
    assert one.count(shown) == 5  # its note, its job, its end, and why that was and what to do
    assert one.count("next") == 5
    assert not [line for line in one.splitlines() if line.startswith("next")]
    assert not set("\x1b\u202e\r") & set(overview + one)


@pytest.mark.parametrize(
    ("loss", "speed"), [("NaN", "Infinity"), ("1e300", "1e-300"), ("-1e300", "0")]
)
def test_numbers_that_are_none_leave_a_table_and_a_document(
    project: Path, loss: str, speed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "runs" / "r" / "job" / "0000" / "progress-0000.json"
    step = 10**30
    path.write_text(
        f'{{"state": "running", "global_step": {step}, "loss": {loss}, "tokens_per_second": {speed}}}'
    )

    show_status(Status(checkpoints=str(project / "checkpoints"), shards=str(project)))
    show_status(Status(checkpoints=str(project / "checkpoints"), json=True))

    *_, line, document = capsys.readouterr().out.splitlines()
    assert len(line) < 300
    assert json.loads(document, parse_constant=pytest.fail)["runs"][0]["step"] == step


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        # What a second and a third of one went to, where a thousand runs take half of one.
        ("overview", "asyncio fsspec numpy psutil pynvml submitit torch typeguard"),
        ("arrays", "torch"),  # plans of data need numpy
    ],
)
def test_looking_at_runs_imports_nothing_that_takes_long(module: str, heavy: str) -> None:
    script = (
        "import sys; from launch.flags.parse import parse_flags; from launch.flags.status import Status; "
        f"parse_flags(Status, []); import launch.runs.{module}; "
        f"print([name for name in {heavy.split()} if name in sys.modules])"
    )

    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert said.stdout.strip() == "[]"
