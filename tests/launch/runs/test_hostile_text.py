"""Names, rows, answers and errors are text in every place where they are shown, whoever wrote them."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from instruct_core.events import Saved, SaveFailed, SlowRank
from instruct_core.storage.documents import dump_document
from instruct_core.storage.store import Store
from jobs.events import Changed, Crashed, Damaged, Started, Unknown
from jobs.ledger import Ledger
from jobs.notify import plain
from launch.checkup.finding import fails
from launch.cluster.slurm import SlurmJob
from launch.console.display import show_line
from launch.console.lines import guarded
from launch.drills import drill
from launch.drills.comparison import Difference
from launch.drills.verdict import Verdict
from launch.evaluation.page import as_text
from launch.flags.control import Control
from launch.flags.logs import Logs
from launch.flags.report import Report
from launch.flags.status import Status
from launch.reports.report import write_report
from launch.runs import follower
from launch.runs.control import control
from launch.runs.log import show_log
from launch.runs.overview import show_status
from launch.runs.run import Run
from tests.launch.dialogue.test_dialogue import dialogue
from tests.launch.runs.test_status import leave

MARKUP = "</td><script>alert(1)</script><img src=x onerror=f()>"
HOSTILE = (
    f"{MARKUP}\x1b[2J\x1b]0;t\x07\r\nFAKE line\x00\u202egnp\u200f\u2028FAKE\x85FAKE\ud800[/red]"
    "'\"&amp;"
)
LONG = HOSTILE + "M" * 1_000_000
OBEYED = ("Cc", "Cs", "Zl", "Zp")  # categories of what nobody sees


@pytest.fixture(scope="module", params=[HOSTILE, LONG], ids=["hostile", "long"])
def text(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def checkpoints(project: Path, text: str) -> str:
    """Where the run r is, which has a hostile word in each place that somebody can write one into."""
    ledger = Ledger(Store(project / "runs" / "r"), attempt=0, spent=lambda: {text[:90]: 3.0})
    for event in (
        Started(0, text, 1, text, [1], [text]), SlowRank(5, 0, 1.0, 0.1, text, text),
        Changed([text], [text]), SaveFailed(5, text, 5.0), Damaged(text), Saved(step=6, seconds=0.1),
        Unknown(text, {"event": text, "why": text}), Crashed(text, text, False, text, text),
    ):  # fmt: skip
        ledger.note(event)
    store = Store(project / "checkpoints" / "r")
    document = json.loads(store.read("run.json"))
    asked = {"slurm": {"setup": [text], "sbatch": [text]}}
    more = {"code": text, "asked": asked}
    store.replace("run.json", dump_document(document | more))
    store.replace("control-000001-pause.json", json.dumps({"by": text, "utc_seconds": 1}).encode())
    around = {"torch": text, "gpus": [text], "processor": text}
    Store(project / "runs" / "r").replace("surroundings-0000.json", json.dumps(around).encode())
    leave(project, "progress-0000.json", state=text, global_step=4, ledger=text)
    leave(project, "failed.json", start="0000", error=text, traceback="", retry=True)
    log = project / "runs/r/job/0000/1_0_log.out"
    log.write_bytes(text[:90].replace("\n", "").encode("utf-8", "surrogatepass") + b"\xff\x00\n")
    return str(project / "checkpoints")


Show = Callable[[str, str], object]  # given where the runs are, and a hostile word


def _refused(_: str, text: str) -> None:
    def fail() -> int:
        raise ConfigError(f"Source {text} is not there. Give another.")

    guarded(fail)


def _drilled(_: str, text: str) -> None:
    difference = Difference(text, text, text, text)
    drill._tell(Verdict([], difference, [str(difference)], 1, 0))


def _paused(checkpoints: str, _: str) -> None:
    guarded(lambda: control(Control("r", "pause", checkpoints=checkpoints)))


def _reported(checkpoints: str, _: str) -> None:
    write_report(Report("r", checkpoints=checkpoints))
    print((Path(checkpoints).parent / "runs/r/report.html").read_text(encoding="utf-8"))


def _followed(checkpoints: str, text: str) -> None:
    looks = iter([True])
    job = SlurmJob(Path(checkpoints).parent / "runs/r/job/0000", f"{checkpoints}/../runs/new")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follower, "SLURM_POLL_SECONDS", 0.0)
        patch.setattr(SlurmJob, "is_running", lambda job: next(looks, False))
        patch.setattr(SlurmJob, "never_starts", lambda job: False)
        follows = follower._Follower(job)
        Ledger(Store(job.ledger), 0).note(Crashed(text, text))
        follows.follow()
        follower._conclude(job, Run.named("r", checkpoints), stopping=False)


PLACES: dict[str, Show] = {
    "status of all": lambda at, _: show_status(Status(checkpoints=at, shards=at)),
    "status of one": lambda at, _: show_status(Status("r", checkpoints=at)),
    "status as JSON": lambda at, _: show_status(Status(checkpoints=at, json=True)),
    "difference": lambda at, _: show_status(Status("r", checkpoints=at, diff="r")),
    "log": lambda at, _: show_log(Logs("r", checkpoints=at)),
    "report": _reported,
    "control": _paused,
    "error": _refused,
    "run that is followed": _followed,
    "doctor": lambda _, text: show_line(fails("slurm", text, text).line, "red"),
    "drill": _drilled,
    "answer": lambda _, text: dialogue().take(text[:90]),
    "inspected row": lambda _, text: show_line(text[:90], "green"),
    "page of an evaluation, as Markdown": lambda _, text: print(as_text(text[:90])),
    "notification": lambda _, text: print(plain(text)),
}


@pytest.mark.parametrize("place", PLACES)
def test_text_of_others_stays_text(
    place: str,
    text: str,
    checkpoints: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    PLACES[place](checkpoints, text)

    said = capsys.readouterr()
    shown = said.out + said.err
    assert shown.strip()
    obeyed = {letter for letter in shown if unicodedata.category(letter) in OBEYED} - {"\n", "\t"}
    assert not obeyed | (set(shown) & set("\u202e\u200f"))
    has_lines = place in ("log", "answer", "report")
    assert has_lines or not [line for line in shown.split("\n") if line.startswith("FAKE")]
    if place in ("report", "page of an evaluation, as Markdown", "notification"):
        assert "<script" not in shown
        assert "<img" not in shown
    whole = place in (
        "status as JSON",
        "line of a job's log",
    )  # for programs, and what it is all read from
    assert whole or len(shown) < 500_000
