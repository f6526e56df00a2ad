"""
What a run is made of, as blocks of its page: checkpoints, settings, and what it ran on.

    blocks = [*checkpoints_of(run), *settings_of(run), *environment_of(run, entries)]
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from instruct_core.checkpoints.manifest import Manifest
from instruct_core.checkpoints.steps import committed_steps, read_manifest
from instruct_core.config import to_json
from instruct_core.errors import CorruptFileError
from jobs.events import Changed, Started
from jobs.ledger import Entry
from jobs.surroundings import kept_surroundings
from launch.pages.blocks import Block, Heading, Table, Words
from launch.runs.run import Run

# What stands beside each attempt of what it has kept: a title, and the first of these that is there.
KEPT = (
    ("GPU or processor", ("gpus", "processor")),
    ("torch", ("torch",)),
    ("CUDA", ("cuda",)),
    ("driver", ("driver",)),
    ("Python", ("python",)),
    ("Slurm", ("slurm",)),
    ("code", ("git_commit",)),
    ("parts of the model", ("parts",)),
)


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
    if run.document.get("asked"):
        yield Heading("Asked for", is_detail=True)
        yield Table(
            ("what", "value"), [(k, _shown(v)) for k, v in run.asked.items()], has_numbers=False
        )


def environment_of(run: Run, entries: Sequence[Entry]) -> Iterator[Block]:
    """Yield versions by the newest checkpoint, where and with what each attempt ran, what changed."""
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
        yield Heading("By attempt", is_detail=True)
        kept = kept_surroundings(run.ledger)
        places = [_place_of(attempt, event, kept.get(attempt, {})) for attempt, event in started]
        header = ("attempt", "ranks", "device", "hosts", *(name for name, _ in KEPT))
        yield Table(header, places, has_numbers=False)
    if len(started) > 1:
        yield from _changes(entries)


def _place_of(attempt: int, event: Started, kept: Mapping[str, Any]) -> tuple[str, ...]:
    hosts = ", ".join(dict.fromkeys(event.hosts))
    where = (str(attempt), str(event.world_size), event.device, hosts)
    return *where, *(_first_of(kept, names) for _, names in KEPT)


def _first_of(kept: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the first of some facts that says anything, as text."""
    found = next((kept[name] for name in names if kept.get(name)), "")
    return ", ".join(map(str, found)) if isinstance(found, list) else _shown(found)


def _changes(entries: Sequence[Entry]) -> Iterator[Block]:
    yield Heading("Changed between attempts", is_detail=True)
    changed = [(e.attempt, e.event) for e in entries if isinstance(e.event, Changed)]
    rows = [
        (str(attempt), what, "yes" if what in event.may_alter_bits else "")
        for attempt, event in changed
        for what in dict.fromkeys([*event.may_alter_bits, *event.what])
    ]
    if rows:
        yield Table(("since attempt", "what", "may alter bits"), rows, has_numbers=False)
    else:
        yield Words("Nothing: all attempts ran on the same, with the same.")


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
