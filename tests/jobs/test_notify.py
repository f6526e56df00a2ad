"""What is told to a server of a person's choice: delivered, tried again, given up, and never a secret."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from instruct_core.errors import ConfigError
from jobs import notify
from jobs.environment import NOTIFY
from jobs.failures import write_outcome
from jobs.job_folder import FOLDER, START, Progress, write_progress
from jobs.notify import Notifier, address_of, tell_failure

SECRET = "T0psecret"


class Server(ThreadingHTTPServer):
    """Answers every letter as a test says, and keeps it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[int] = []  # the last one again and again; 0 hangs
        self.letters: list[dict[str, object]] = []
        self.asked = threading.Event()
        self.closed = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/{SECRET}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.letters.append(json.loads(self.rfile.read(length)))
        answers = self.server.answers
        code = answers.pop(0) if len(answers) > 1 else answers[0] if answers else 200
        self.server.asked.set()
        if code == 0:
            self.server.closed.wait(60)
            return
        self.send_response(code)
        self.send_header("Location", self.server.url)
        self.end_headers()

    do_GET = do_POST  # noqa: N815  where a redirect would lead

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Server]:
    """A server that answers until the context ends."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.closed.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PAUSES_SECONDS", (0.0, 0.0, 0.0))


def told(word: str, wait_seconds: float = 60) -> None:
    notifier = Notifier("r", {NOTIFY: word})
    notifier.tell("finished", "is finished: step 3", step=3)
    notifier.close(wait_seconds)


def test_word_arrives_as_json_with_a_text_that_slack_shows(server: Server) -> None:
    told(server.url)

    [letter] = server.letters
    assert letter["text"] == "Run r is finished: step 3"
    assert (letter["run"], letter["event"], letter["step"]) == ("r", "finished", 3)
    assert SECRET not in json.dumps(letter)


def test_text_of_an_error_calls_nobody_on_slack(server: Server) -> None:
    notifier = Notifier("r", {NOTIFY: server.url})
    notifier.tell("failed", "has failed: <!channel> a & b\x1b[31m\nc")
    notifier.close(60)

    assert server.letters[0]["text"] == "Run r has failed: &lt;!channel&gt; a &amp; b [31m c"


@pytest.mark.parametrize(
    ("answers", "letters"), [([500, 429, 200], 3), ([503], 4), ([404], 1), ([307], 1), ([302], 1)]
)
def test_server_that_is_not_well_is_asked_again_and_one_that_refuses_is_not(
    server: Server, answers: list[int], letters: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers = list(answers)

    told(server.url)

    assert len(server.letters) == letters
    delivered = answers[-1] == 200
    assert [record.message for record in caplog.records] == (
        [] if delivered else [f"A notification was not delivered: HTTP {answers[-1]}"]
    )


def test_server_that_hangs_costs_training_nothing_and_the_end_little(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [0]
    monkeypatch.setattr(notify, "TIMEOUT_SECONDS", 3600.0)
    notifier = Notifier("r", {NOTIFY: server.url})

    for step in range(100):
        notifier.tell("resumed", f"goes on from step {step}")
    assert server.asked.wait(60)
    notifier.close(0.01)

    assert len(server.letters) == 1  # the others were not waited for


def test_server_that_is_not_there_is_told_of_without_its_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        told(f"http://127.0.0.1:{taken.getsockname()[1]}/{SECRET}")

    assert caplog.messages == ["A notification was not delivered: ConnectionRefusedError"]


@pytest.mark.parametrize(
    "word",
    ["https://", f"http:// x/{SECRET}", f"https://x/{SECRET}\n", f"ftp://x/{SECRET}", f"https://[x/{SECRET}",
     f"http://é/{SECRET}", f"no-file-{SECRET}"],
)  # fmt: skip
def test_what_is_no_url_is_refused_without_saying_it(word: str) -> None:
    with pytest.raises(ConfigError, match="--notify") as caught:
        address_of(word)

    assert SECRET not in str(caught.value) or word.startswith("no-file")


def test_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    path.write_text(f"https://hooks.example/{SECRET}\n")
    path.chmod(0o640)

    with pytest.raises(ConfigError, match="chmod 600") as caught:
        address_of(str(path))
    path.chmod(0o600)

    assert SECRET not in str(caught.value)
    assert address_of(str(path)) == f"https://hooks.example/{SECRET}"


def test_failure_for_good_is_told_where_the_job_ends(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv(START, "0001")
    monkeypatch.setenv(NOTIFY, server.url)
    write_progress(tmp_path, Progress(ledger="/x/runs/mine", attempt=2, global_step=7))
    tell_failure(tmp_path)  # it comes back: nothing to tell
    write_outcome(tmp_path, "rank 1 on node2: Killed.", "")

    tell_failure(tmp_path)

    [letter] = server.letters
    assert letter["text"] == "Run mine has failed at step 7: rank 1 on node2: Killed."
    assert SECRET not in caplog.text
