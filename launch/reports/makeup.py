"""
What a run is made of, as blocks of its page: checkpoints, settings, and what it ran on.

    blocks = [*checkpoints_of(run), *settings_of(run), *environment_of(run, entries)]
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

from instruct_core.checkpoints.manifest import Manifest
from instruct_core.checkpoints.steps import committed_steps, read_manifest
from instruct_core.config import to_json
from instruct_core.errors import CorruptFileError
from jobs.events import Started
from jobs.ledger import Entry
from launch.pages.blocks import Block, Heading, Table, Words
from launch.runs.run import Run


def manifests_of(run: Run) -> Iterator[tuple[int, Manifest | str]]:
    """Yield every committed step with its manifest, or with what is wrong with that."""
    for step in committed_steps(run.store):
        try:
            yield step, read_manifest(run.store, step)
        except CorruptFileError as error:
            yield step, str(error)
        except FileNotFoundError:  # removed meanwhile
            continue


def checkpoints_of(run: Run) -> Iterator[Block]:
    """Yield the run's checkpoints; their bytes are not read."""
    yield Heading("Checkpoints")
    rows = []
    for step, manifest in manifests_of(run):
        if isinstance(manifest, str):
            rows.append((str(step), "", "", "", manifest))
            continue
        loss = "" if manifest.val_loss is None else f"{manifest.val_loss:.4f}"
        saved = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(manifest.saved_at))
        size, attempt = f"{manifest.num_bytes / 1e6:,.1f} MB", str(manifest.attempt)
        rows.append((str(step), size, loss, attempt, saved))
    if not rows:
        yield Words("No checkpoint is committed yet.")
        return
    yield Table(("step", "size", "val loss", "attempt", "saved"), rows)


def settings_of(run: Run) -> Iterator[Block]:
    """Yield what the run was begun with, and what was asked of the cluster."""
    yield Heading("Settings")
    settings = {name: _shown(value) for name, value in to_json(run.config).items()}
    yield Table(("setting", "value"), list(settings.items()), has_numbers=False)
    if asked := run.document.get("asked"):
        yield Heading("Asked for", is_detail=True)
        yield Table(
            ("what", "value"), [(k, _shown(v)) for k, v in asked.items()], has_numbers=False
        )


def environment_of(run: Run, entries: Sequence[Entry]) -> Iterator[Block]:
    """Yield versions by the newest checkpoint, and where each attempt ran."""
    yield Heading("Environment")
    facts = {"code": str(run.document.get("code", ""))}
    manifests = [found for _, found in manifests_of(run) if isinstance(found, Manifest)]
    if manifests:
        facts |= manifests[-1].versions or {}
        facts["code of the newest checkpoint"] = manifests[-1].git_commit or ""
    rows = [(name, value) for name, value in facts.items() if value]
    yield Table(("what", "version"), rows, has_numbers=False)
    started = [(e.attempt, e.event) for e in entries if isinstance(e.event, Started)]
    if started:
        places = [
            (
                str(attempt),
                str(event.world_size),
                event.device,
                ", ".join(dict.fromkeys(event.hosts)),
            )
            for attempt, event in started
        ]
        yield Table(("attempt", "ranks", "device", "hosts"), places, has_numbers=False)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
