"""
Write all about a run on one page: what launch/report.py does.

    exit_code = write_report(Report("my-run"))

The run, and the place of the page, are looked at before anything is written.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from jobs.receipt import Receipt
from launch.cluster.slurm import Controller
from launch.console.lines import say
from launch.flags.report import Report
from launch.pages.blocks import Block, Table
from launch.pages.html import GENERATOR, html_of
from launch.reports.evaluations import evaluations_of
from launch.reports.history import curves_of, history_of, samples_of
from launch.reports.makeup import checkpoints_of, environment_of, settings_of
from launch.runs.curves import read_curves
from launch.runs.places import absolute, check_folder, check_url, reachable
from launch.runs.run import Run
from launch.runs.status import RunStatus

CURVES = ("train/loss", "val/loss", "train/learning_rate", "train/tokens_per_second")
HEAD_BYTES = 4096  # of a page that is there, to see whose it is
TITLE = re.compile(rb"<title>Run [\w.-]+</title>")


def write_report(flags: Report) -> int:
    """Write the page of a run; return the exit code."""
    run = Run.find(flags.run, flags.checkpoints, flags.runs)
    status = RunStatus.of(run, Controller())
    place, out = _find_out(flags, run)
    page = html_of(f"Run {run.name}", _blocks(status))
    with reachable("--out", place):
        out.replace(place.rpartition("/")[2], page.encode(errors="replace"))
    say(f"Report: {place}")
    return 0


def _find_out(flags: Report, run: Run) -> tuple[str, Store]:
    """Return the page's place, and the store that it lies in; raises ConfigError."""
    own = str(run.job_parent.with_name("report.html"))
    place = absolute(own if flags.out is None else flags.out)
    folder, _, name = place.rpartition("/")
    out = Store(folder or "/")
    if (flags.out or name).endswith("/"):
        raise ConfigError(f"--out must name a file, got {flags.out}. Give one: --out page.html")
    if out.is_local:
        check_folder("--out", place, out.local_path(""), num_bytes=0)
        if out.local_path(name).is_dir():
            raise ConfigError(f"--out {place} is a folder. Name a file in it: --out page.html")
    check_url("--out", out.url, writes=True)
    with reachable("--out", place):
        if out.exists(name) and not _is_page(out.read(name, at_most=HEAD_BYTES)):
            raise ConfigError(
                f"--out {place} is in use: it is no page of this command. Give another file: nothing "
                "else is overwritten."
            )
    return place, out


def _is_page(head: bytes) -> bool:
    """Return True for the head of a page about a run; an evaluation's has a title of another kind."""
    return GENERATOR.encode() in head and TITLE.search(head) is not None


def _blocks(status: RunStatus) -> Iterator[Block]:
    told = read_curves(status.run.ledger, CURVES)
    attempts, receipt = status.attempts(), status.receipt()
    yield _facts(status, receipt)
    yield from curves_of(told.curves, attempts)
    yield from history_of(status.entries, attempts, receipt)
    yield from samples_of(told.samples)
    yield from evaluations_of(status.run)
    yield from checkpoints_of(status.run)
    yield from settings_of(status.run)
    yield from environment_of(status.run, status.entries)


def _facts(status: RunStatus, receipt: Receipt) -> Table:
    """Return how the run stands."""
    progress, run = status.progress(), status.run
    facts = {
        "state": status.state(),
        "note": status.note(),
        "step": status.step(),
        "loss": "" if progress.loss is None else f"{progress.loss:.4f}",
        "tokens per second": ""
        if progress.tokens_per_second is None
        else f"{progress.tokens_per_second:,.0f}",
        "last save": status.last_save(),
        "goodput": f"{receipt.goodput:.2f}" if receipt.wall_seconds else "",
        "checkpoints": run.store.url,
        "ledger": run.ledger.url,
        "page of": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }
    return Table(("what", "which"), [(k, v) for k, v in facts.items() if v], has_numbers=False)
