"""
What the nodes themselves find: a job of a minute, a process a node.

    findings = check_nodes(offer, flags.slurm, "checkpoints_instruct")      # on Slurm
    findings = check_this_machine("checkpoints_instruct")      # two processes here

The job is jobs/checkup.py. Nodes that are no good are named, ready for --exclude.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from instruct_core.converter import structure
from instruct_core.errors import ConfigError, SlurmError
from instruct_core.storage.names import real_path
from instruct_core.storage.store import Store
from jobs.checkup import NUM_NUMBERS, Alone, Together
from jobs.job_folder import read_json
from jobs.slurm import run_client, show_job
from launch.checkup.disk import MOST_SKEW_SECONDS, SEEN_SKEW_SECONDS
from launch.checkup.finding import Finding, fails, note, ok, refused
from launch.checkup.scheduler import Offer
from launch.cluster.frozen_code import CODE, freeze_code
from launch.cluster.machine import THIS_MACHINE
from launch.cluster.probe import LOG, submit_probe
from launch.cluster.request import request_of, resources_of
from launch.console.lines import counted
from launch.console.lines import note as tell
from launch.flags.slurm import SlurmFlags
from launch.runs.places import absolute

MINUTES = 3  # of the job
QUEUE_SECONDS, RUN_SECONDS = 120.0, 150.0  # that it may wait, and take
END_SECONDS = 40.0  # until it is gone: Slurm's usual KillWait, and some
MOST_NODES = 32
POLL_SECONDS = 0.5
HERE = 2  # processes on this machine
Report = TypeVar("Report", Alone, Together)


def check_nodes(offer: Offer, flags: SlurmFlags, checkpoints: str) -> list[Finding]:
    """Return what the idle nodes of a partition find."""
    idle = run_client(["sinfo", "-h", "-N", "-p", offer.partition, "-t", "idle", "-o", "%N"])
    fit = {node.name for node in offer.nodes if node.gpus or not offer.gpus_per_node}
    number = min(len(fit & set(idle.split())), offer.num_nodes, MOST_NODES)
    if not number:
        return [note("nodes", f"no node of {offer.partition} is idle", "Ask again later")]
    with _folders(checkpoints) as folder:
        try:
            return _check_by_job(offer, flags, absolute(checkpoints), number, folder)
        except ConfigError as error:
            return [refused("nodes", error, "Look at the line of sbatch")]


@contextmanager
def _folders(checkpoints: str) -> Iterator[Path]:
    """Make the folder of a job, and leave neither it nor what its nodes have written."""
    store = Store(checkpoints)
    root = real_path(store.local_path("")) if store.is_local else None
    made = [] if root is None else [f for f in (root, *root.parents) if not f.exists()]
    folder = Path(tempfile.mkdtemp(prefix="doctor-", dir=".")).resolve()
    try:
        yield folder
    finally:
        with suppress(OSError):  # where nobody can write there is nothing
            store.remove(f".{folder.name}")
        shutil.rmtree(folder, ignore_errors=True)  # a full disk may have left none of it
        for empty in made:
            with suppress(OSError):
                empty.rmdir()


def _check_by_job(
    offer: Offer, flags: SlurmFlags, checkpoints: str, number: int, folder: Path
) -> list[Finding]:
    request = request_of(flags, nodes=number)
    resources = resources_of("doctor", flags, request, places=[checkpoints])
    # Bad ones too: who wants to know whether a node is good again asks here.
    resources = replace(resources, nodes=number, minutes=MINUTES, exclude=flags.exclude)
    words = [sys.executable, "-m", "jobs.checkup", str(folder), checkpoints]
    job_id = submit_probe(folder, resources, words)
    tell(f"Job {job_id} looks at {counted(number, 'node')} of {offer.partition}, for a minute")
    try:
        nodes, waits = _wait(job_id, folder, number)
    finally:
        _end(job_id)
    if not nodes:
        return [note("nodes", f"job {job_id} did not start in time: {waits}", "Ask again later")]
    return _judge_reports(nodes, folder)


def _wait(job_id: str, folder: Path, number: int) -> tuple[list[str], str]:
    """Wait for all reports, or the end; return the nodes that it began on, or why it did not."""
    nodes: list[str] = []
    reason, deadline = "", time.monotonic() + QUEUE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)  # Slurm tells nobody
        try:
            record = show_job(job_id)
        except SlurmError:  # busy: asked again
            continue
        if record is None:
            break
        if record.nodes and not nodes:
            nodes = run_client(["scontrol", "show", "hostnames", record.nodes]).split()
            deadline = time.monotonic() + RUN_SECONDS
        if not record.is_active or len(_paths(folder, "together")) == number:
            break
        reason = record.reason
    return nodes, reason


def _end(job_id: str) -> None:
    """End a job that may still run, and see it gone, for what it writes is removed."""
    deadline = time.monotonic() + END_SECONDS
    with suppress(SlurmError):
        run_client(["scancel", job_id])
        while time.monotonic() < deadline:
            record = show_job(job_id)
            if record is None or not record.is_active:
                return
            time.sleep(POLL_SECONDS)


def check_this_machine(checkpoints: str) -> list[Finding]:
    """Return what two processes of this machine find."""
    with _folders(checkpoints) as folder:
        freeze_code(folder)
        words = [sys.executable, "-m", "jobs.checkup", str(folder), absolute(checkpoints)]
        with (folder / LOG).open("wb") as log:
            processes = [
                subprocess.Popen(
                    [*words, str(rank), str(HERE), THIS_MACHINE],
                    cwd=folder / CODE, stdout=log, stderr=log,
                )
                for rank in range(HERE)
            ]  # fmt: skip
            for process in processes:
                process.wait()
        return _judge_reports([THIS_MACHINE], folder)


def _judge_reports(nodes: Sequence[str], folder: Path) -> list[Finding]:
    log = folder / LOG
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    last = next((line for line in reversed(lines) if line.strip()), "")
    alone, together = _reports(folder, "alone", Alone), _reports(folder, "together", Together)
    return judge(nodes, alone, together, last)


def _paths(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"{kind}-*.json"))


def _reports(folder: Path, kind: str, report: type[Report]) -> list[Report]:
    return [structure(read_json(path), report, str(path)) for path in _paths(folder, kind)]


def judge(
    nodes: Sequence[str], alone: Sequence[Alone], together: Sequence[Together], log: str = ""
) -> list[Finding]:
    """
    Return what the reports of a job mean.

    Args:
        nodes: It ran on.
        alone: What each found by itself; who has not run has none.
        together: What each found with the others; who has not come so far has none.
        log: Last line of the job's log.
    """
    silent = [node for node in nodes if node not in {report.node for report in alone}]
    if len(silent) == len(nodes):
        found = f"none of {counted(len(nodes), 'node')} begins: {log or 'the log is empty'}"
        return [fails("nodes", found, f"The script starts on the first: {_exclude(nodes[:1])}")]
    if silent:
        found = f"{_named(silent)} cannot run it: Python, the code or this folder is not there"
        return [fails("nodes", found, _exclude(silent))]
    apart = {report.node: report.problem for report in alone if report.problem}
    if apart:
        first = next(iter(apart.values()))
        found = f"{_named(apart)} cannot use the checkpoints: {first}"
        return [fails("nodes", found, _exclude(apart))]
    well = ok("nodes", f"{counted(len(nodes), 'node')}: Python, code and checkpoints are there")
    return [well, *_judge_sight(together), *_judge_talk(nodes, together)]


def _judge_sight(together: Sequence[Together]) -> list[Finding]:
    blind = {report.node: report.unseen for report in together if report.unseen}
    if blind:
        node, unseen = next(iter(blind.items()))
        return [fails("shared files", f"{node} does not see {', '.join(unseen)}", _exclude(blind))]
    winners = [report.node for report in together if report.won]
    if len(winners) > 1:
        found = f"{_named(winners)} each made the one file"
        return [fails("shared files", found, "Give --checkpoints another place")]
    late = max((report.late_seconds for report in together), default=0.0)
    return [ok("shared files", f"seen within {late:.1f} s, and one of all made a file")]


def _judge_talk(nodes: Sequence[str], together: Sequence[Together]) -> list[Finding]:
    stuck = {report.node: report.problem for report in together if report.problem}
    gone = [node for node in nodes if node not in {report.node for report in together}]
    if stuck or gone:
        problem = next(iter(stuck.values()), "they do not come to an end")
        bad = gone or list(stuck)
        found = f"ranks on {_named(bad)} cannot talk: {problem}"
        return [fails("all-reduce", found, _exclude(bad) if len(bad) < len(nodes) else
                      "Look at the interfaces and the firewall between nodes")]  # fmt: skip
    seconds, size = max(report.reduce_seconds for report in together), len(together)
    moved = 2 * (size - 1) / size * 4 * NUM_NUMBERS  # bytes that a ring sends from each rank
    speed = f", {moved / seconds / 1e9:.1f} GB/s" if seconds else ""
    talk = ok("all-reduce", f"{4 * NUM_NUMBERS / 1e6:.0f} MB in {1000 * seconds:.0f} ms{speed}")
    return [_judge_clocks({report.node: report.clock for report in together}), talk]


def _judge_clocks(clocks: Mapping[str, float]) -> Finding:
    middle = sorted(clocks.values())[len(clocks) // 2]
    off = {node: abs(clock - middle) for node, clock in clocks.items()}
    worst = max(off.values())
    found = f"clocks of the nodes are up to {worst:.1f} s apart"
    bad = [node for node in off if off[node] > SEEN_SKEW_SECONDS]
    if worst > MOST_SKEW_SECONDS:
        return fails("clocks", f"{found}: {_named(bad)}", _exclude(bad))
    if bad:
        return note("clocks", f"{found}: {_named(bad)}", "Have an administrator set them")
    return ok("clocks", found)


def _named(nodes: Iterable[str]) -> str:
    return ", ".join(nodes)


def _exclude(nodes: Iterable[str]) -> str:
    return f"--exclude {','.join(nodes)}"
