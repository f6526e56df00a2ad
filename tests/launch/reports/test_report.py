"""launch/report.py: one page with all about a run, safe whatever a model or a row says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from instruct_core.errors import ConfigError
from instruct_core.events import Saved
from instruct_core.storage.store import Store
from instruct_core.train.metrics import Metrics
from jobs.events import Changed, Crashed, Finished, Resumed, Started, Warned
from jobs.ledger import Ledger
from launch.evaluation.page import documents
from launch.evaluation.result import Report as Evaluation
from launch.evaluation.result import Sample, Scores
from launch.flags.report import Report
from launch.pages import chart
from launch.reports import history
from launch.reports.report import write_report
from launch.runs.curves import read_curves
from launch.runs.run import Run
from tests.browser import CHROMIUM, NEEDED, Browser
from tests.launch.runs.test_run import begin, save

HOSTILE = "</td></table><script>alert(1)</script><img onerror=f()>\n\x1b[31m\u202egnp\x00'\" &amp;"
SHOWN = (
    "</td></table><script>alert(1)</script><img onerror=f()>\n\\u001b[31m\\u202egnp\\u0000'\" &amp;"
)
LONG = "w" * 3000
HEADER = ("prompt", "reference", "answer")


def tell(run: Run) -> None:
    """Leave what two attempts of a run leave: the first is killed at step 7 and saved step 5."""
    for number, first, last in ((0, 0, 7), (1, 5, 12)):
        ledger = Ledger(run.ledger, number, lambda: {"imports": 1.0, "step": 3.0})
        ledger.note(Started(number, HOSTILE, 2, HOSTILE, [1, 2], [HOSTILE, "node2"]))
        if number:
            ledger.note(Changed([HOSTILE, "driver 550 -> 560"], [HOSTILE]))
        around = {
            "processor": "EPYC",
            "torch": f"2.{number}",
            "slurm": HOSTILE,
            "gpus": [],
            "cuda": 3,
            "parts": 2 - number,
        }
        run.ledger.replace(f"surroundings-{number:04d}.json", json.dumps(around).encode())
        ledger.note(Resumed(first))
        curves = Metrics(run.ledger, number, first)
        for step in range(first + 1, last + 1):
            curves.log(step, {"train/loss": 10.0 - step, "train/learning_rate": 1e-3 * step})
            curves.log(
                step, {"train/tokens_per_second": float("nan") if step == 6 else 100.0 * step}
            )
        for step in (0, 10):
            if first <= step <= last:
                rows = [HEADER, (HOSTILE, f"right {HOSTILE}", f"said at {step} {HOSTILE}{LONG}")]
                curves.log_table(step, "samples", rows)
        curves.close()
        ledger.note(Saved(step=first + 5, seconds=0.5))
        ledger.note(Warned(last, "USR2", 1.0) if number else Crashed(HOSTILE, node="n<2>"))
    ledger.note(Finished(12))


def evaluate(run: Run) -> None:
    before, after = Scores(10, 22026.0, 9, 8103.0, 0, 0), Scores(2, 7.389, 1, 2.718, 0.25, 0.5)
    found = Evaluation(
        run.name, 10, HOSTILE, f"base {HOSTILE}", HOSTILE, "f", 15, 100, 50, 64, 6, 0, 8, before, after,
        {HOSTILE: HOSTILE}, {}, [Sample(HOSTILE, HOSTILE, HOSTILE, LONG)],
    )  # fmt: skip
    folder = Store(run.job_parent.with_name("evaluation-step-00000010"))
    for name, data in documents(found).items():
        folder.replace(name, data)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed once, evaluated, and says what nobody should have to read."""
    project = tmp_path_factory.mktemp("project")
    run = begin(project, "r")
    for step in (5, 10):
        save(run, step)
    tell(run)
    evaluate(run)
    return project


@pytest.fixture(scope="module")
def page(project: Path) -> Path:
    place = project / "page.html"
    flags = Report("r", str(place), checkpoints=str(project / "checkpoints_instruct"))
    assert write_report(flags) == 0
    return place


def test_page_tells_all_about_a_run_and_needs_nothing_else(page: Path) -> None:
    text = page.read_text()

    for title in (
        "Curves", "Timeline", "Receipt", "Answers over time", "Evaluation", "Checkpoints", "Settings",
        "Environment",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in text
    figures = re.findall(r"<figcaption>([^<]*)</figcaption>", text)
    assert figures[:3] == [
        "Loss per token by step", "Learning rate by step", "Tokens per second by step",
    ]  # fmt: skip
    assert figures[3].startswith("Steps over time")
    assert "learning_rate</td><td" in text  # a setting
    assert "7.39" in text  # perplexity after
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import|<script|<link|<img|<iframe", text)
    assert "default-src 'none'" in text


def test_page_has_what_each_attempt_ran_with_and_what_changed(page: Path) -> None:
    text = page.read_text()
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in text.split("<tr>")]

    attempts = [row for row in rows if row[:2] in (["0", "2"], ["1", "2"]) and "EPYC" in row]
    kept = [(row[0], row[5], row[6], row[-1]) for row in attempts]
    assert kept == [("0", "2.0", "3", "2"), ("1", "2.1", "3", "1")]
    assert ["1", "driver 550 -&gt; 560", ""] in rows
    assert [
        row[2] for row in rows if row[:1] == ["1"] and "onerror" in row[1] and len(row) == 3
    ] == ["yes"]


@pytest.mark.parametrize("kept", [b"", b"{", b"[1]", b'{"torch": {"a": [null]}, "gpus": "x"}'])
def test_surroundings_that_cannot_be_read_leave_the_rest(tmp_path: Path, kept: bytes) -> None:
    run = begin(tmp_path, "r")
    tell(run)
    run.ledger.replace("surroundings-0001.json", kept or b" ")

    write_report(Report("r", checkpoints=str(tmp_path / "checkpoints_instruct")))

    assert "By attempt</h3>" in (tmp_path / "runs_instruct/r/report.html").read_text()


def test_interruption_is_marked_where_it_came(
    page: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = []

    def line_chart(*words: Any, **more: Any) -> str:
        marks.extend(words[3:])
        return chart.line_chart(*words, **more)

    monkeypatch.setattr(history, "line_chart", line_chart)
    again = Report("r", str(project / "again.html"), checkpoints=f"{project}/checkpoints_instruct")
    write_report(again)
    assert marks == [{5: "0"}] * 3  # the last step that the ledger tells of

    loss, rate, speed, _ = page.read_text().split("</figure>", 3)

    # The number of the attempt; the loss has a tick of the same word.
    assert [svg.count(">0</text>") for svg in (loss, rate, speed)] == [2, 1, 1]
    assert "A dotted line stands where an attempt ended" in page.read_text()


def test_curve_of_several_attempts_is_one(project: Path) -> None:
    told = read_curves(Run.find("r", f"{project}/checkpoints_instruct").ledger, ("train/loss",))

    assert told.curves["train/loss"] == [(step, 10.0 - step) for step in range(1, 13)]
    assert [samples.step for samples in told.samples] == [0, 10]
    [(prompt, reference, answer)] = told.samples[1].answers
    assert (prompt, reference) == (HOSTILE, f"right {HOSTILE}")
    assert answer == f"said at 10 {HOSTILE}{LONG}"


def test_curves_in_an_object_store_are_read_too(project: Path) -> None:
    here = Run.find("r", f"{project}/checkpoints_instruct").ledger
    there = Store("memory://runs/r")
    for name in here.names():
        if name.startswith("events"):
            there.replace(name, here.read(name))

    assert read_curves(there, ("train/loss",)) == read_curves(here, ("train/loss",))


def test_run_that_has_done_nothing_has_a_page_that_says_so(tmp_path: Path) -> None:
    begin(tmp_path, "new")

    write_report(Report("new", checkpoints=str(tmp_path / "checkpoints_instruct")))

    text = (tmp_path / "runs_instruct/new/report.html").read_text()
    assert "not started" in text
    assert "No attempt has begun yet." in text
    assert "No checkpoint is committed yet." in text


def test_evaluation_that_cannot_be_read_is_named_on_the_page(tmp_path: Path) -> None:
    run = begin(tmp_path, "r")
    folder = run.job_parent.with_name("evaluation-step-00000010")
    folder.mkdir(parents=True)
    (folder / "report.json").write_text('{"format": 1, "run": 3}')

    write_report(Report("r", checkpoints=str(tmp_path / "checkpoints_instruct")))

    text = (tmp_path / "runs_instruct/r/report.html").read_text()
    assert "report.json is no evaluation of this version" in text


def test_page_is_replaced_and_nothing_else_is(project: Path, page: Path, tmp_path: Path) -> None:
    checkpoints = str(project / "checkpoints_instruct")
    (tmp_path / "notes.html").write_text("<html>mine</html>")

    with pytest.raises(ConfigError, match=r"notes\.html is in use: it is no page of this command"):
        write_report(Report("r", str(tmp_path / "notes.html"), checkpoints=checkpoints))
    evaluation = project / "runs_instruct/r/evaluation-step-00000010/report.html"
    before = evaluation.read_bytes()
    with pytest.raises(ConfigError, match=r"report\.html is in use: it is no page of this command"):
        write_report(Report("r", str(evaluation), checkpoints=checkpoints))
    assert write_report(Report("r", str(page), checkpoints=checkpoints)) == 0

    assert (tmp_path / "notes.html").read_text() == "<html>mine</html>"
    assert evaluation.read_bytes() == before


@pytest.mark.skipif(not CHROMIUM, reason=NEEDED)
def test_page_in_a_browser_shows_its_text_and_fits_every_screen(page: Path, tmp_path: Path) -> None:
    evaluation = page.with_name("runs_instruct") / "r/evaluation-step-00000010/report.html"
    with Browser(tmp_path) as browser:
        looks = [browser.look(page, width) for width in (320, 400, 1400)]
        dark = browser.look(page, 400, dark=True)
        looks += [browser.look(evaluation, width) for width in (400, 1400)]

    for seen in [*looks, dark]:
        assert seen.errors == []
        assert seen.overflowing == []
        assert seen.active == 0
        assert SHOWN in seen.text
    assert f"said at 10 {SHOWN}" in dark.text
    assert dark.colour != looks[0].colour
