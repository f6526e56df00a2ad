"""
Tell somebody's server how a run goes: one JSON POST when it is preempted, resumes, fails or finishes.

    notifier = Notifier("my-run", address_in(os.environ))      # INSTRUCT_CLUSTER_NOTIFY
    notifier.tell("finished", "all 2000 steps are made", step=2000)
    notifier.close()                                           # waits for seconds at most

The address may be the secret itself, as Slack's are. It travels in the environment alone, or in a file
that only its owner reads, and stands in no message: what goes wrong is told without it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import stat
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from instruct_core.errors import ConfigError
from instruct_core.storage.names import without_tilde
from jobs.environment import NOTIFY
from jobs.failures import read_outcome
from jobs.job_folder import read_progress, this_start

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0  # of one try
PAUSES_SECONDS = (1.0, 5.0, 20.0)  # before it is tried again
LAST_WORD_SECONDS = 2.0  # that the end of a process waits for what has not been delivered
PATIENT_SECONDS = 30.0  # ... where nobody is in a hurry: the job has finished, or failed
MAX_URL_CHARACTERS = 4096
MAX_TEXT_CHARACTERS = 2000

What = Literal["preempted", "resumed", "failed", "finished"]


def is_url(word: str) -> bool:
    """Return True for a URL, False for what must be a file."""
    return word.startswith(("http://", "https://"))


def address_of(word: str) -> str:
    """
    Return the URL that a word is, or that stands in the file it names.

    Raises:
        ConfigError: It is none, or others may read the file; says so without what the word says.
    """
    url = word if is_url(word) else _in_file(word)
    try:
        is_good = is_url(url) and bool(urlsplit(url).hostname) and url.isascii()
        is_good = is_good and url.isprintable() and " " not in url
    except ValueError:
        is_good = False
    if not is_good or len(url) > MAX_URL_CHARACTERS:
        raise ConfigError(
            "--notify takes a URL (https://...), or a file of mode 0600 that holds one, and so does "
            f"{NOTIFY}. What it has is no URL."
        )
    return url


def _in_file(name: str) -> str:
    if "://" in name:
        return ""
    path = without_tilde(name)
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8", errors="replace") if stat.S_ISREG(mode) else ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigError(
            f"--notify {path} cannot be read: {reason}. It takes a URL (https://...), or a file of mode "
            "0600 that holds one."
        ) from None
    if stat.S_ISREG(mode) and mode & 0o077:
        raise ConfigError(
            f"--notify {path} can be read by others, and what it holds may be a secret. First: chmod "
            f"600 {path}"
        )
    return text.strip()


class Notifier:
    """
    Sends what a process has to tell, in a thread of its own.

    Args:
        run: Its name.
        environment: Where the address may stand.
    """

    def __init__(self, run: str, environment: Mapping[str, str]) -> None:
        self._run, self._word = run, environment.get(NOTIFY, "")
        self._letters: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="notify", daemon=True)
        if self._word:
            self._thread.start()

    def tell(self, what: What, text: str, **facts: Any) -> None:
        """Send a word about the run, soon; never raises, never waits."""
        if not self._word:
            return
        letter = {"text": plain(f"Run {self._run} {text}"), "run": self._run, "event": what}
        facts = {name: _short(fact) for name, fact in facts.items()}
        more = {"host": socket.gethostname(), "utc_seconds": round(time.time(), 3)}
        self._letters.put(json.dumps(letter | facts | more).encode())

    def close(self, wait_seconds: float = LAST_WORD_SECONDS) -> None:
        """Wait a little for what has not been delivered, and give it up."""
        if self._thread.is_alive():
            self._letters.put(None)
            self._thread.join(wait_seconds)
            self._over.set()

    def _send_all(self) -> None:
        while (letter := self._letters.get()) is not None:
            problem = self._send(letter)
            if self._over.is_set():  # nobody waits for it any more
                return
            if problem:
                logger.warning("A notification was not delivered: %s", problem)

    def _send(self, letter: bytes) -> str:
        """Deliver a letter, with several tries; return what went wrong, "" for nothing."""
        problem = ""
        for pause in (0.0, *PAUSES_SECONDS):
            if self._over.wait(pause):
                break
            try:
                _post(address_of(self._word), letter)
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code}"
                error.close()
                if error.code < 500 and error.code != 429:
                    break
            except ConfigError:
                return f"{NOTIFY} has no URL"
            except (OSError, HTTPException, ValueError) as error:  # their words may have the URL
                reason = getattr(error, "reason", error)
                problem = type(reason if isinstance(reason, Exception) else error).__name__
            else:
                return ""
        return problem or "the job ended first"


def tell_failure(folder: Path) -> None:
    """Tell of a run whose job has just failed for good; called where the job ends, and never raises."""
    try:
        _tell_failure(folder)
    except Exception as error:  # whether the job comes back is decided
        logger.warning("The failure could not be told: %s", type(error).__name__)


def _tell_failure(folder: Path) -> None:
    outcome, progress = read_outcome(folder), read_progress(folder)
    if outcome is None or outcome.start != this_start() or progress.ledger is None:
        return  # it comes back, or is no run
    notifier = Notifier(progress.ledger.rpartition("/")[2], os.environ)
    step, attempt = progress.global_step, progress.attempt
    text = f"has failed{'' if step is None else f' at step {step}'}: {outcome.error}"
    notifier.tell("failed", text, step=step, attempt=attempt, error=outcome.error)
    notifier.close(PATIENT_SECONDS)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Go nowhere else: the address is for nobody else to see."""


def _post(url: str, letter: bytes) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "instruct-cluster"}
    request = urllib.request.Request(url, letter, headers, method="POST")
    opener = urllib.request.build_opener(_NoRedirect)
    with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
        answer.read(1 << 16)


def _short(fact: Any) -> Any:
    return fact[:MAX_TEXT_CHARACTERS] if isinstance(fact, str) else fact


def plain(text: str) -> str:
    """Return text as Slack shows it letter by letter: nobody is called, nothing is a link."""
    text = "".join(c if c.isprintable() else " " for c in text)[:MAX_TEXT_CHARACTERS]
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
