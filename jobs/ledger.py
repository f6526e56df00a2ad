"""
What happened to a run, one JSON line an event, one file an attempt.

    ledger = Ledger(Store("runs_instruct/my-run"), attempt=3)
    ledger.note("resumed", step=100)

Events: started, resumed, damaged, foreign, evaluated, saved, save_failed, made_room, not_removed,
short_lead, warned, requeued, stopped, failed, finished, and crashed. Each has `utc_seconds` and
`event`. Rank 0 writes all but the last: when ranks were killed, whoever started them adds it to the
attempt's file. A commit of which a killed attempt could not tell is told by the next one, in its own
file: that line names the `attempt` that saved, and not how long that took.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from instruct_core.storage.store import Store

logger = logging.getLogger(__name__)


class Ledger:
    """The events of one attempt; a line is on the disk when `note` returns, unless the disk is full."""

    def __init__(self, store: Store, attempt: int) -> None:
        self._store = store
        self._name = f"attempt-{attempt:04d}.jsonl"
        self._text = ""

    def note(self, event: str, **facts: Any) -> None:
        """Append one event. The whole file is written: object stores cannot append."""
        entry = {"utc_seconds": round(time.time(), 3), "event": event, **facts}
        self._text += json.dumps(entry) + "\n"
        try:
            self._store.replace(self._name, self._text.encode())
        except OSError as error:  # a full disk must not end the run; the next event writes all
            logger.warning("The ledger could not be written: %s", error)
        logger.info("%s %s", event, ", ".join(f"{key} {value}" for key, value in facts.items()))


def note_crash(store: Store, attempt: int, **facts: Any) -> None:
    """Append `crashed` to the file of an attempt whose ranks have all ended."""
    name = f"attempt-{attempt:04d}.jsonl"
    entry = {"utc_seconds": round(time.time(), 3), "event": "crashed", **facts}
    try:
        before = store.read(name)
    except FileNotFoundError:  # the disk was full when it should have been written
        before = b""
    try:
        store.replace(name, before + (json.dumps(entry) + "\n").encode())
    except OSError as error:
        logger.warning("The ledger could not be written: %s", error)


def note_untold_save(ledger: Ledger, store: Store, manifest: Mapping[str, Any]) -> None:
    """Write `saved` for a checkpoint whose attempt was killed between its commit and its word."""
    step, attempt = manifest["global_step"], manifest["attempt"]
    told = {(e["attempt"], e["step"]) for e in read_ledger(store) if e["event"] == "saved"}
    if (attempt, step) not in told:
        saved_at = round(manifest["saved_at"], 3)
        ledger.note("saved", utc_seconds=saved_at, attempt=attempt, step=step)


def newest_timed_save(store: Store) -> dict[str, Any] | None:
    """Return the newest `saved` that tells how long it took; None before there is one."""
    saves = [e for e in read_ledger(store) if e["event"] == "saved" and "seconds" in e]
    return saves[-1] if saves else None


def read_ledger(store: Store) -> list[dict[str, Any]]:
    """Return all events of a run, attempt's file by attempt's file, each with its `attempt`."""
    events = []
    for name in store.names():
        if name.startswith("attempt-") and name.endswith(".jsonl"):
            attempt = int(name.removeprefix("attempt-").removesuffix(".jsonl"))
            for line in store.read(name).decode().splitlines():
                events.append({"attempt": attempt, **json.loads(line)})
    return events
