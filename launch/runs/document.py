"""
What launch/status.py says, as JSON for programs: documented in docs/formats.md, and versioned.

    document_of_run(RunStatus.of(run))["receipt"]["goodput"]
    document_of_all(Look(Controller()), "checkpoints_instruct", runs=None)
"""

from __future__ import annotations

import json
import math
from typing import Any

from instruct_core.events import Saved
from launch.cluster.bad_nodes import known_bad
from launch.runs.away import KnownRun, Look
from launch.runs.pace import left_of, unsaved_of
from launch.runs.status import RunStatus

SCHEMA = 1


def json_of(document: Any) -> str:
    """Return a document as every reader of JSON takes it: a number that is none is null."""
    return json.dumps(_finite(document), allow_nan=False)


def document_of_run(status: RunStatus) -> dict[str, Any]:
    """Return all about one run."""
    return {
        "schema": SCHEMA,
        **_summary(status),
        "attempts": [attempt._asdict() for attempt in status.attempts()],
        "receipt": status.receipt().to_json(),
    }


def document_of_part(known: KnownRun) -> dict[str, Any]:
    """Return what is known of a run of which not all can be read, and why."""
    return {"schema": SCHEMA, **known.to_json()}


def document_of_all(look: Look, checkpoints: str, runs: str | None) -> dict[str, Any]:
    """Return a summary of every run in a place; arguments as `Look.at_all`."""
    return {
        "schema": SCHEMA,
        "runs": look.at_all(checkpoints, runs, _summary, KnownRun.to_json),
        "away": look.away,
        "bad_nodes": [bad._asdict() for bad in known_bad()],
    }


def _finite(value: Any) -> Any:
    """Return a value with None for each number that JSON does not have, as of a run that diverged."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary(status: RunStatus) -> dict[str, Any]:
    progress = status.progress()
    saves = [entry.event.step for entry in status.entries if isinstance(entry.event, Saved)]
    unsaved, left = unsaved_of(status), left_of(status)
    return {
        "run": status.run.name,
        "state": status.state(),
        "is_active": status.is_active(),
        "job": status.job_id(),
        "step": status.reached_step(),
        "max_steps": status.run.config.max_steps,
        "saved_step": saves[-1] if saves else None,
        "loss": progress.loss,
        "tokens_per_second": progress.tokens_per_second,
        "attempt": status.entries[-1].attempt if status.entries else None,
        "unsaved_steps": unsaved.steps if unsaved else None,
        "unsaved_seconds": round(unsaved.seconds, 1) if unsaved else None,
        "seconds_left": round(left.seconds, 1) if left else None,
        "starts_left": left.starts if left else None,
        "expected_start": status.expected_start() or None,
        "note": status.note(),
        "checkpoints": status.run.store.url,
        "ledger": status.run.ledger.url,
    }
