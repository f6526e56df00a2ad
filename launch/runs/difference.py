"""
How two runs differ: settings, versions, data, and what came of them.

    show_difference(RunStatus.of(one), RunStatus.of(other))
"""

from __future__ import annotations

import json
import math
from typing import Any

from rich.table import Table

from instruct_core.checkpoints.manifest import Manifest
from instruct_core.checkpoints.steps import committed_steps, read_manifest
from instruct_core.config import to_json
from instruct_core.errors import CorruptFileError
from instruct_core.events import Evaluated
from launch.console.display import show_table
from launch.console.lines import say
from launch.runs.run import Run
from launch.runs.status import RunStatus

SCHEMA = 1
PLACES = ("run", "checkpoints", "runs")  # which differ, and decide nothing
DATA = ("shards", "data_fingerprint", "init", "model")


def show_difference(one: RunStatus, other: RunStatus) -> None:
    """Print what differs, a line each; what is equal is left out."""
    names = one.run.name, other.run.name
    table = Table("of", "what", *names, box=None)
    for of, differing in differences(one, other).items():
        for what, (here, there) in differing.items():
            table.add_row(of, what, *map(_of_result if of == "results" else shown, (here, there)))
    if table.rows:
        show_table(table)
    else:
        say(f"Runs {names[0]} and {names[1]} do not differ.")


def document_of_difference(one: RunStatus, other: RunStatus) -> dict[str, Any]:
    """Return what differs, as JSON has it: for each, the value of the one and of the other."""
    found = {
        of: {k: list(pair) for k, pair in d.items()} for of, d in differences(one, other).items()
    }
    return {"schema": SCHEMA, "runs": [one.run.name, other.run.name], "differences": found}


def differences(one: RunStatus, other: RunStatus) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Return what differs by kind and name, with the value of each; None where a run has none."""
    here, there = _sides(one), _sides(other)
    return {
        kind: {
            name: (here[kind].get(name), there[kind].get(name))
            for name in here[kind] | there[kind]
            if here[kind].get(name) != there[kind].get(name)
        }
        for kind in here
    }


def _sides(status: RunStatus) -> dict[str, dict[str, Any]]:
    config, document = to_json(status.run.config), status.run.document
    asked = status.run.asked
    manifest = _newest_manifest(status.run)
    asked_of_slurm = {f"slurm {name}": value for name, value in asked["slurm"].items()}
    return {
        "settings": {k: v for k, v in config.items() if k not in (*PLACES, *DATA)}
        | {k: v for k, v in asked.items() if k not in ("slurm", *config)}
        | asked_of_slurm,
        "versions": {"code": document.get("code")} | ((manifest and manifest.versions) or {}),
        "data": {name: config[name] for name in DATA},
        "results": results_of(status),
    }


def results_of(status: RunStatus) -> dict[str, Any]:
    """Return what has come of a run, in a person's words; None for what has not come yet."""
    losses = [entry.event for entry in status.entries if isinstance(entry.event, Evaluated)]
    finite = [event for event in losses if math.isfinite(event.val_loss)]
    best = min(finite, key=lambda event: event.val_loss, default=None)
    receipt = status.receipt()
    return {
        "state": status.state(),
        "step": status.reached_step(),
        "loss": status.progress().loss,
        "newest val loss": losses[-1].val_loss if losses else None,
        "best val loss": best.val_loss if best else None,
        "best step": best.step if best else None,
        "attempts": len({entry.attempt for entry in status.entries}),
        "hours": round(receipt.wall_seconds / 3600, 2),
        "goodput": round(receipt.goodput, 2),
    }


def _newest_manifest(run: Run) -> Manifest | None:
    for step in reversed(committed_steps(run.store)):
        try:
            return read_manifest(run.store, step)
        except (CorruptFileError, FileNotFoundError):  # damaged, or removed meanwhile
            continue
    return None


def shown(value: Any) -> str:
    """Return a setting or a result as a table has it."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _of_result(value: Any) -> str:
    """Return a result as a person compares it: of a loss, the digits that mean something."""
    return f"{value:.6g}" if isinstance(value, float) else shown(value)
