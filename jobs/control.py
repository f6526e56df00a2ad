"""
What people ask of a run on its way: small files in its folder, which its rank 0 looks for.

    ask(store, "extend", "anna@login1", steps=400)      # control-000003-extend-400.json
    standing(requests_in(store))                        # the stop or pause that holds now, or None
    with Control(store, attempt) as control:
        control.wishes().save                           # True: before the next step, please

The name says all that a job needs, so one listing serves, and a file that its reader may not open is
obeyed as well. Nothing is ever changed or marked as done: a stop or a pause holds, at every start,
until somebody has the run go on; the end only moves later; and a save is asked for until there is
a newer one.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Self, cast

from instruct_core.checkpoints.attempts import newest_attempt
from instruct_core.checkpoints.steps import newest_committed_step
from instruct_core.storage.json_text import loose_json
from instruct_core.storage.store import Store
from instruct_core.train.wishes import Wishes
from jobs.events import Asked
from jobs.job_folder import describe_error

logger = logging.getLogger(__name__)

Verb = Literal["save", "stop", "pause", "resume", "extend"]

REQUEST = re.compile(r"control-(\d{6,12})-(save|stop|pause|resume|extend)(?:-(\d{1,12}))?\.json")
LOOK_SECONDS = 1.0  # between two looks at a disk
LOOK_AT_STORE_SECONDS = 5.0  # and at an object store, where each costs
LONGEST_NAME = 80  # characters shown of who asked


class Request(NamedTuple):
    """What somebody asked of a run; of two with a number, the first by name."""

    number: int
    verb: Verb
    steps: int | None  # of an extend
    file: str


def ask(store: Store, verb: Verb, by: str, steps: int | None = None) -> Request:
    """
    Ask something of a run, after all that was asked before.

    Args:
        store: The run's folder.
        verb: What.
        by: Who, for others to read.
        steps: Where an `extend` puts the end.

    Raises:
        OSError: The folder cannot be written.
    """
    asked = {"format": 1, "verb": verb, "steps": steps, "by": by, "utc_seconds": time.time()}
    if verb == "save":  # which saves are newer: the asker's clock and the job's are two
        asked["saved"] = _newest_saved(store)
    while True:
        number = max((request.number for request in requests_in(store)), default=0) + 1
        end = "" if steps is None else f"-{steps}"
        request = Request(number, verb, steps, f"control-{number:06d}-{verb}{end}.json")
        # The token is nobody else's, so that a repeated request knows its own claim.
        if store.claim(request.file, json.dumps({**asked, "token": uuid.uuid4().hex}).encode()):
            return request


def requests_in(store: Store) -> list[Request]:
    """Return all that was ever asked of a run, in order."""
    found = []
    for name in store.names():
        if match := REQUEST.fullmatch(name):
            number, verb, steps = match.groups()
            if (verb == "extend") == (steps is not None):
                end = None if steps is None else int(steps)
                found.append(Request(int(number), cast("Verb", verb), end, name))
    return sorted(found, key=lambda request: (request.number, request.file))


def standing(requests: list[Request]) -> Request | None:
    """Return the stop or the pause that holds; None where the run may go on."""
    holds: Request | None = None
    for request in requests:
        if request.verb == "resume":
            holds = None
        elif request.verb == "stop" or (request.verb == "pause" and holds is None):
            holds = request
    return holds


def last_step(requests: list[Request], max_steps: int) -> int:
    """Return where a run ends that was begun for ``max_steps``."""
    return max([max_steps, *(request.steps or 0 for request in requests)])


def asker(store: Store, request: Request) -> str:
    """Return who asked, as one line of printable characters."""
    try:
        by = str(loose_json(store.read(request.file, 1 << 16))["by"])
    except (OSError, ValueError, KeyError, TypeError):  # it may not be ours to read
        return "somebody"
    return "".join(c for c in by if c.isprintable())[:LONGEST_NAME] or "somebody"


def _open_saves(store: Store, requests: Sequence[Request]) -> list[Request]:
    """Return the saves asked for since the newest one, of an attempt that began or ended just then."""
    saves = [request for request in requests if request.verb == "save"]
    newest = _newest_saved(store) if saves else -1
    return [request for request in saves if _saved_before(store, request, newest) >= newest]


def _saved_before(store: Store, request: Request, newest: int) -> int:
    """
    Return the newest step when somebody asked for a save; ``newest`` where nobody can tell.

    The file may not be ours to read, or of an older version: a save too many costs less than one too few.
    """
    try:
        return int(loose_json(store.read(request.file, 1 << 16))["saved"])
    except (OSError, ValueError, KeyError, TypeError):
        return newest


def _newest_saved(store: Store) -> int:
    """Return the newest step that a run has saved; -1 where it has none."""
    step = newest_committed_step(store)
    return -1 if step is None else step


class Control:
    """
    Looks for requests beside the training; rank 0 alone has one.

    A thread of its own looks, so that a store that takes its time costs no step: the training reads
    what has been found.

    Args:
        store: The run's folder.
        attempt: Number of this attempt: one that was overtaken takes no requests.
        max_steps: Where the run ends so far.
    """

    def __init__(self, store: Store, attempt: int, max_steps: int) -> None:
        self._store, self._attempt = store, attempt
        self._requests = requests_in(store)
        self._by: dict[str, str] = {}  # who asked, by file
        self._ending = standing(self._requests)
        saves = _open_saves(store, self._requests)
        news = [r for r in self._requests if r == self._ending or (r.steps or 0) > max_steps]
        news += saves
        self._told = {request.file for request in self._requests if request not in news}
        self._by |= {request.file: asker(store, request) for request in news}
        self._save_asked = len(self._requests)
        self._save_taken = self._save_asked - bool(saves)
        self.max_steps = last_step(self._requests, max_steps)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="control", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()  # the thread is not waited for: its store may hang

    @property
    def ending(self) -> Request | None:
        """The stop or the pause that holds."""
        return self._ending

    def wishes(self) -> Wishes:
        """Return what is asked of the next step; a save until it is taken."""
        return Wishes(self._save_asked > self._save_taken, self.max_steps)

    def take(self, verb: Verb, step: int) -> list[Asked]:
        """Note that the ranks do as they were asked; return what there is to tell of it."""
        requests = self._requests
        if verb == "save":
            self._save_taken = len(requests)
        mine = [r for r in requests if r.verb == verb and r.file not in self._told]
        self._told.update(request.file for request in mine)
        return [Asked(step, verb, self._by.get(r.file, "somebody"), r.steps) for r in mine]

    def _watch(self) -> None:
        pause = LOOK_SECONDS if self._store.is_local else LOOK_AT_STORE_SECONDS
        told = ""
        while not self._over.wait(pause):
            try:
                self._look()
            except Exception as error:  # the next look may be answered
                if (problem := describe_error(error)) != told:
                    logger.warning("Requests could not be looked for: %s", problem)
                told = problem

    def _look(self) -> None:
        """Take what was asked since the last look; the order below is that of what others may read."""
        known = {request.file for request in self._requests}
        requests = requests_in(self._store)
        new = [request for request in requests if request.file not in known]
        if not new or newest_attempt(self._store) != self._attempt:
            return
        for request in new:
            self._by[request.file] = asker(self._store, request)
        self._requests = requests
        self.max_steps = last_step(requests, self.max_steps)
        self._ending = standing(requests)
        if any(request.verb == "save" for request in new):
            self._save_asked = len(requests)
