"""
A checkup: every check of what a run would need, printed a line each, or as one document.

    exit_code = doctor(flags)

What takes long (torch, a bucket, Slurm's controller) is asked at the same time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from instruct_core.storage.names import real_path
from instruct_core.storage.store import Store
from launch.checkup.bucket import check_bucket
from launch.checkup.disk import check_disk, check_job_folder, nearest_folder
from launch.checkup.environment import (
    check_data,
    check_open_files,
    check_python,
    check_tokenizer,
    check_torch,
)
from launch.checkup.finding import Finding, note, ok
from launch.checkup.nodes import check_nodes, check_this_machine
from launch.checkup.scheduler import Offer, check_slurm, is_here
from launch.checkup.shared import check_shared
from launch.checkup.site import check_can_write, write_site
from launch.cluster.bad_nodes import known_bad, to_trust, trust
from launch.cluster.gpus import ask_torch, visible_gpus
from launch.cluster.machine import num_cores, use_cluster
from launch.console.display import show_line
from launch.console.lines import EXIT_FAILED, counted, say, say_whole
from launch.console.lines import note as tell
from launch.flags.doctor import Doctor
from launch.flags.site import Site
from launch.flags.slurm import check_slurm_flags
from launch.runs.places import absolute

SCHEMA = 1  # of the JSON
REPO = Path(__file__).resolve().parents[2]
RUNS = "runs_instruct"  # where finetune has the folders of its jobs by default
NEEDED_BY_A_JOB = ("torch", "slurm", "partition", "sbatch", "checkpoints", "room", "job folder")
COLOURS = {"ok": "green", "note": "yellow", "would fail": "bold red"}


class Look(NamedTuple):
    """What is found without a job."""

    findings: list[Finding]
    offer: Offer | None  # of Slurm's partition


def doctor(flags: Doctor) -> int:
    """Look at everything and say what is found; return the exit code."""
    if flags.trust is not None:
        for line in trust(flags.trust):
            say(line)
        return 0
    check_slurm_flags(flags.slurm)
    use_cluster(flags.slurm.clusters)
    if flags.write_site:
        check_can_write()
    first = look(flags)
    findings = first.findings
    if flags.deep:
        findings = [*findings, *look_deeper(first, flags)]
    failed = [finding for finding in findings if finding.state == "would fail"]
    if flags.json:
        say_whole(json.dumps(to_json(findings)))
    else:
        for finding in findings:
            show_line(f"{finding.state:11}{finding.name:13}{finding.line}", COLOURS[finding.state])
        what = counted(len(findings), "check")
        say(f"{len(failed)} of {what} would fail." if failed else f"All well: {what}.")
    if flags.write_site:
        path = write_site(flags.slurm, first.offer)
        tell(f"Written: {path}. Look through it; commands say that they use it.")
    return EXIT_FAILED if failed else 0


def look(flags: Doctor) -> Look:
    """
    Return what all checks find that need no job.

    Raises:
        ConfigError: A place or a partition that was typed is none.
    """
    store = Store(absolute(flags.checkpoints))
    folder = real_path(store.local_path("")) if store.is_local else None
    with ThreadPoolExecutor() as pool:
        torch = pool.submit(ask_torch)
        places = pool.submit(check_places, flags.checkpoints, folder)
        has_slurm = is_here(flags.slurm.partition)
        slurm, offer = check_slurm(flags.slurm) if has_slurm else ([], None)
        findings = [
            check_python(),
            check_torch(torch.result(), visible_gpus().number, offer.gpus_per_node if offer else 0),
            check_tokenizer(),
            check_data(),
            open_files(offer),
            *slurm,
            *(check_bad_nodes() if has_slurm else []),
            *site(),
            *shared_disk(offer, folder),
            *places.result(),
        ]
    return Look(findings, offer)


def check_bad_nodes() -> list[Finding]:
    """Return which nodes jobs do without, because they have been at fault again and again."""
    return [note("bad nodes", bad.line, f"Again: {to_trust(bad.node)}") for bad in known_bad()]


def site() -> list[Finding]:
    """Return which profile counts here."""
    line = Site.found().line("doctor")
    return [ok("site", line)] if line else []


def look_deeper(first: Look, flags: Doctor) -> list[Finding]:
    """Return what the nodes find, or, without Slurm, two processes here."""
    failed = {finding.name for finding in first.findings if finding.state == "would fail"}
    if in_the_way := [name for name in NEEDED_BY_A_JOB if name in failed]:
        return [note("nodes", "not asked", f"Fix {', '.join(in_the_way)} first")]
    if first.offer is None:
        return check_this_machine(flags.checkpoints)
    return check_nodes(first.offer, flags.slurm, flags.checkpoints)


def open_files(offer: Offer | None) -> Finding:
    """Return whether the limit of open files suffices, here or in a partition."""
    if offer is None:
        ranks = visible_gpus().number or num_cores()
        return check_open_files(ranks, ranks)
    ranks = offer.ranks_per_node
    return check_open_files(ranks, offer.num_nodes * ranks, offer.config)


def shared_disk(offer: Offer | None, checkpoints: Path | None) -> list[Finding]:
    """Return whether all nodes see what jobs read and write; [] where there is one machine."""
    if offer is None:
        return []
    places = {"Python": Path(sys.prefix), "the code": REPO, RUNS: real_path(RUNS)}
    if checkpoints is not None:
        places["checkpoints"] = checkpoints
    folders = {name: nearest_folder(place) for name, place in places.items()}
    return [check_shared(folders, {node.host for node in offer.nodes})]


def check_places(checkpoints: str, folder: Path | None) -> list[Finding]:
    """
    Return what is found about the place of the checkpoints, and about that of the jobs.

    Args:
        checkpoints: As it was typed.
        folder: What that means; None for a bucket.
    """
    runs = real_path(RUNS)
    if folder is None:
        return [check_bucket(checkpoints), check_job_folder(runs)]
    findings = check_disk(checkpoints, folder)
    if findings[0].state == "would fail" and nearest_folder(folder) == nearest_folder(runs):
        return findings  # one fault is one line
    return [*findings, check_job_folder(runs, folder)]


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the whole as one document."""
    return {
        "schema": SCHEMA,
        "ok": not any(finding.state == "would fail" for finding in findings),
        "checks": [finding._asdict() for finding in findings],
    }
