"""
What happened to a run, one JSON line an event, one file an attempt.

    ledger = Ledger(Store("runs_instruct/my-run"), attempt=3)
    ledger.note(Resumed(step=100))
    [entry.event for entry in read_ledger(store) if isinstance(entry.event, Saved)]

Each line has `utc_seconds`, `event` and the event's facts. Rank 0 writes all but `crashed`: when ranks
were killed, whoever started them adds it to the attempt's file. A commit of which a killed attempt
could not tell is told by the next one, in its own file: that line names the `attempt` that saved, and
not how long that took.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from instruct_core.checkpoints.manifest import Manifest
from instruct_core.converter import structure
from instruct_core.errors import CorruptFileError
from instruct_core.events import Event, Saved
from instruct_core.storage.json_text import loose_json
from instruct_core.storage.patience import LOOK_AGAIN_SECONDS, patiently
from instruct_core.storage.store import Store
from jobs.events import UNREADABLE, Crashed, Resumed, Unknown, Warned, event_of

logger = logging.getLogger(__name__)

LATEST = 1e11  # seconds since 1970: the year 5138; what is later, or no number, is no time
ATTEMPT_FILE = re.compile(r"attempt-(\d+)\.jsonl")


class Entry(NamedTuple):
    """A line of the ledger."""

    attempt: int
    utc_seconds: float
    event: Event
    spent: dict[str, float] = {}  # noqa: RUF012  seconds of the attempt up to here, by cause


class Ledger:
    """
    The events of one attempt; a line is on the disk when `note` returns, unless the disk is full.

    Args:
        store: Of the run.
        attempt: Whose file it is.
        spent: Return where the attempt's seconds went so far; every line of now has it.
    """

    def __init__(
        self, store: Store, attempt: int, spent: Callable[[], dict[str, float]] = dict
    ) -> None:
        self._spent = spent
        self._patient, self._hasty = store, Store(store.url, patience_seconds=0.0)
        self._name = f"attempt-{attempt:04d}.jsonl"
        self._text = _told_before(store, self._name)
        self.is_behind = False  # of what has happened: training does not wait for it twice

    def note(
        self,
        event: Event,
        utc_seconds: float | None = None,
        patience_seconds: float = 0.0,
        is_hasty: bool = False,
    ) -> None:
        """
        Append an event. The whole file is written: object stores cannot append.

        Args:
            event: What happened.
            utc_seconds: When, if not now.
            patience_seconds: How long to go on where it cannot be written, for whatever reason: an
                attempt's last event, as all others are written with the next one.
            is_hasty: Try once: there was a wait for this disk already.
        """
        if utc_seconds is None:
            self._text += _line(event, time.time(), self._spent())
        else:
            self._text += _line(event, utc_seconds)
        # The attempt's last event comes right behind a warning, whose time is short.
        is_hasty = is_hasty or self.is_behind or patience_seconds > 0 or isinstance(event, Warned)
        self._write(self._hasty if is_hasty else self._patient, patience_seconds)
        said = ", ".join(f"{key} {_rounded(value)}" for key, value in event.facts.items())
        name = "begins at" if event == Resumed(0) else event.name
        logger.info("%s %s", name, " ".join(said.split()))  # one line, whoever is quoted

    def catch_up(self, patience_seconds: float) -> bool:
        """Write what the disk has refused to take, if there is such; False where it refuses it still."""
        if self.is_behind:
            self._write(self._hasty, patience_seconds)
        return not self.is_behind

    def _write(self, store: Store, patience_seconds: float = 0.0) -> None:
        data = self._text.encode()
        try:
            patiently(lambda: store.replace(self._name, data), patience_seconds, lambda _: True)
        except OSError as error:  # a full disk must not end the run
            self.is_behind = True
            logger.warning("The ledger could not be written: %s", error)
        else:
            self.is_behind = False


def _rounded(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _told_before(store: Store, name: str) -> str:
    """Return what stands in an attempt's file: numbers begin anew where a run's checkpoints are gone."""
    try:
        return store.read(name).decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        logger.warning("The ledger could not be read: %s", error)
        return ""


def _line(event: Event, utc_seconds: float, spent: Mapping[str, float] | None = None) -> str:
    document = {"utc_seconds": round(utc_seconds, 3), "event": event.name, **event.facts}
    if spent:
        document["spent"] = spent
    return json.dumps(document) + "\n"


def note_crash(store: Store, attempt: int, crash: Crashed) -> None:
    """
    Append to the file of an attempt whose ranks have all ended; once, however often it is told.

    A full disk is waited for too.
    """
    name = f"attempt-{attempt:04d}.jsonl"
    store.forget_listings()  # what a rank on another node has written must not be written over
    try:
        before = store.read(name)
    except FileNotFoundError:  # the disk was full when it should have been written
        before = b""
    if any(isinstance(entry.event, Crashed) for entry in _entries_in(before, name)):
        return  # by who was killed before the job came back
    data = before + _line(crash, time.time()).encode()
    hasty = Store(store.url, patience_seconds=0.0)
    try:
        patiently(lambda: hasty.replace(name, data), LOOK_AGAIN_SECONDS, lambda _: True)
    except OSError as error:
        logger.warning("The ledger could not be written: %s", error)


def note_untold_save(ledger: Ledger, store: Store, manifest: Manifest) -> None:
    """Write `saved` for a checkpoint whose attempt was killed between its commit and its word."""
    step, attempt = manifest.global_step, manifest.attempt
    saves = [entry for entry in read_ledger(store) if isinstance(entry.event, Saved)]
    if (attempt, step) not in {(entry.attempt, entry.event.facts["step"]) for entry in saves}:
        ledger.note(Saved(attempt=attempt, step=step), manifest.saved_at)


def lost_save(ledger: Store, checkpoints: Store) -> str:
    """Return what is said of a run without checkpoints whose ledger tells of a save; "" without one."""
    saves = [entry.event for entry in read_newest(ledger) if isinstance(entry.event, Saved)]
    if not saves:
        return ""
    return (
        f"Run {ledger.url} has saved step {saves[-1].step} before, and none of its checkpoints is in "
        f"{checkpoints.url}. It does not start over by itself: bring them back (is a disk not mounted?), "
        "give the --checkpoints that has them, or begin another --run."
    )


def newest_timed_save(store: Store) -> Saved | None:
    """Return the newest save that tells how long it took; None before there is one."""
    events = [entry.event for entry in read_ledger(store)]
    saves = [e for e in events if isinstance(e, Saved) and e.seconds is not None]
    return saves[-1] if saves else None


def read_ledger(store: Store) -> list[Entry]:
    """
    Return all events of a run, attempt's file by attempt's file.

    A line that is none of ours is `Unknown`, as an event of a newer version is, and of the time of
    the one before it: a run must not end of what it once said.
    """
    return [entry for name in _files_of(store) for entry in _read_file(store, name)]


class GrowingLedger:
    """
    A run's ledger, for who looks at it again and again: what has not grown is not read again.

    Args:
        store: Of the ledger.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: dict[str, tuple[bytes, list[Entry]]] = {}
        self._told: set[str] = set()

    def entries(self) -> list[Entry]:
        """Return all events, as `read_ledger`."""
        return [entry for name in sorted(self._files) for entry in self._files[name][1]]

    def news(self) -> list[Entry]:
        """Look at it again; return what nobody has told before, which a lost attempt may add late."""
        fresh = []
        for name, size in self._sizes().items():
            before, _ = self._files.get(name, (None, []))
            if before is not None and len(before) == size:
                continue
            text = self._store.read(name)
            if text != before:
                self._files[name] = text, _entries_in(text, name)
                fresh += self._files[name][1]
        news = {repr(entry): entry for entry in fresh if repr(entry) not in self._told}
        self._told |= news.keys()
        return list(news.values())

    def _sizes(self) -> dict[str, int | None]:
        """Return each file's size; None for the newest: a node may know an old one, and it is read."""
        if not self._store.is_local:
            sizes = self._store.sizes()
            names = [name for name in sizes if ATTEMPT_FILE.fullmatch(name)]
        else:
            names = _files_of(self._store)
            sizes = {name: self._store.size_bytes(name) for name in names[:-1]}
        return {name: sizes[name] for name in names[:-1]} | dict.fromkeys(names[-1:])


def has_ledger(store: Store) -> bool:
    """Return True if an attempt has written anything down there."""
    return bool(_files_of(store))


def read_newest(store: Store) -> list[Entry]:
    """Return the events from the newest attempt back to the one that saved last; as `read_ledger`."""
    entries: list[Entry] = []
    for name in reversed(_files_of(store)):
        entries = [*_read_file(store, name), *entries]
        if any(isinstance(entry.event, Saved) for entry in entries):
            break
    return entries


def _files_of(store: Store) -> list[str]:
    return [name for name in store.names() if ATTEMPT_FILE.fullmatch(name)]


def _read_file(store: Store, name: str) -> list[Entry]:
    return _entries_in(store.read(name), name)


def _entries_in(text: bytes, name: str) -> list[Entry]:
    number = int(name.removeprefix("attempt-").partition(".")[0])
    entries: list[Entry] = []
    for at, line in enumerate(text.decode(errors="replace").split("\n"), 1):
        if line.strip():
            entries.append(_entry_or_unknown(line, number, f"{name}:{at}", entries))
    return entries


def _entry_or_unknown(line: str, attempt: int, where: str, before: list[Entry]) -> Entry:
    try:
        return _entry(line, attempt, where)
    except CorruptFileError as error:
        utc_seconds = before[-1].utc_seconds if before else 0.0
        return Entry(attempt, utc_seconds, Unknown(UNREADABLE, {"line": str(error)}))


@dataclass(frozen=True)
class _Head:
    """What every line has."""

    event: str
    utc_seconds: float
    attempt: int | None = None  # that of the file where none is named
    spent: dict[str, float] = field(default_factory=dict)


def _entry(line: str, attempt: int, where: str) -> Entry:
    problem = f"{where} is no line of a ledger"
    try:
        document = loose_json(line)
    except ValueError as error:
        raise CorruptFileError(f"{problem}: {error}.") from None
    head = structure(document, _Head, problem)
    if not 0 <= head.utc_seconds < LATEST or not all(0 <= s < LATEST for s in head.spent.values()):
        raise CorruptFileError(f"{problem}: its seconds are none.")
    named = attempt if head.attempt is None else head.attempt
    return Entry(named, head.utc_seconds, event_of(document), head.spent)
