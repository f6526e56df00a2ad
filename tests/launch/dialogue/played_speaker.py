"""
A model that answers as a test wants, and a server for it at a port of its own.

    with served(PlayedSpeaker()) as url:
        ...                                 # url is http://127.0.0.1:43613
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Thread, get_ident
from typing import Any

from instruct_core.answers.sampling import Sampling
from instruct_core.data.turns import Turn
from launch.dialogue.guard import OWN, Guard
from launch.dialogue.in_turn import thread_to_answer
from launch.dialogue.listening import HttpServer
from launch.dialogue.request import Defaults
from launch.dialogue.server import Server
from launch.dialogue.speaker import Answer, ChatTooLongError
from tests.conftest import HANGS_SECONDS

MOST_TURNS = 3
FOREVER = 10_000  # tokens, each of which takes a hundredth of a second or longer


class PlayedSpeaker:
    """Answers with the question; what it asks for in words happens."""

    place, run = "checkpoints_instruct/r/step-00000004", None

    def __init__(self) -> None:
        self.asked: list[str] = []  # in the order of the answers
        self.answered_in = 0  # the thread
        self.goes_on = Event()  # a question with "wait" waits for it
        self.waits, self.reads, self.called_off = Event(), Event(), Event()
        self._next_token = Event()  # never set: what a token takes

    def prompt(self, turns: Sequence[Turn]) -> list[str]:
        """The last question, as the only token."""
        assert not _has_loop(), "who asks meanwhile would wait"
        if len(turns) > MOST_TURNS:
            raise ChatTooLongError(
                "The chat has 9 tokens with its headings. Leave its oldest turns out."
            )
        if "huge" in turns[-1].text:  # takes as long to read as the test wants
            self.reads.set()
            assert self.goes_on.wait(HANGS_SECONDS)
        return [turns[-1].text]

    def reply(
        self, tokens: Any, sampling: Sampling, max_new_tokens: int, on_text: Callable[[str], None],
        ends: Sequence[str], goes_on: Callable[[], bool],
    ) -> Answer:  # fmt: skip
        """Words of the question, one after the other."""
        [question] = tokens
        self.asked.append(question)
        self.answered_in = get_ident()
        if question == "fail":
            raise MemoryError("no room\nat all")
        if "wait" in question:
            self.waits.set()
            assert self.goes_on.wait(HANGS_SECONDS)
            if not goes_on():
                return Answer("cut", "stopped", 1, 1, 0, 0.5, 0.1)
        words = ["You", *(f" {word}" for word in f"asked: <b>{question}</b>".split(" "))]
        for word in words:
            on_text(word)
        if "forever" in question:
            on_text(" and")
            self.waits.set()
            for _ in range(FOREVER):
                if not goes_on():  # asked once a token, as a model does
                    break
                self._next_token.wait(0.01)
            else:
                raise AssertionError("nobody has called it off")
            self.called_off.set()
            if "fail" in question:
                raise MemoryError("too late")
            return Answer("cut", "stopped", 1, 9, 0, 0.5, 0.1)
        reason = "length" if "long" in question else "end"
        return Answer("".join(words), reason, len(question), len(words), 0, 0.5, 0.1)


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def served(
    speaker: PlayedSpeaker,
    key: str = "",
    patience_seconds: float = HANGS_SECONDS,
    answering: ThreadPoolExecutor | None = None,
) -> Iterator[tuple[str, Server]]:
    """Give the address of a server, and what answers there, for as long as it is needed."""
    defaults, answering = Defaults(Sampling(), 99), answering or thread_to_answer()
    server = Server(speaker, ("r",), defaults, answering)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        http = HttpServer(Guard(server.app, key, OWN), server, patience_seconds)
        thread = Thread(target=http.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}", server
        finally:
            http.handle_exit(2, None)
            speaker.goes_on.set()
            thread.join(HANGS_SECONDS)
    assert not thread.is_alive()
