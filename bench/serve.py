"""
    pip install openai && python -m bench.serve        # GPT-2 of 124M parameters, random weights

What an answer through launch/serve.py costs beside the same answer of launch/chat.py: tokens per second
of one answer, whole and streamed to OpenAI's own client, and of four that are asked for at once; and the
time to the first word.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openai import OpenAI

from bench.common import parser, report
from bench.shapes import random_model, transformers_of

QUESTION = "Say all the words that you know, one after the other. " * 7 + "Now."
NEW_TOKENS = 64
CLIENTS = 4
ASKED = {
    "model": "model", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": NEW_TOKENS,
}  # fmt: skip


class Chat:
    """launch/chat.py, asked through a pipe."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self) -> tuple[float, float]:
        """Return how long the first word took, by its own clock, and the whole answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        started_at = time.perf_counter()
        self._process.stdin.write(f"{QUESTION}\n/clear\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert answer["new_tokens"] == NEW_TOKENS
        return answer["first_token_seconds"], time.perf_counter() - started_at


class Served:
    """The model behind a port."""

    def __init__(self, url: str) -> None:
        self._create: Any = OpenAI(base_url=url, api_key="any").chat.completions.create

    def whole(self) -> float:
        """Return how long a whole answer took."""
        started_at = time.perf_counter()
        assert self._create(**ASKED).usage.completion_tokens == NEW_TOKENS
        return time.perf_counter() - started_at

    def streamed(self) -> tuple[float, float]:
        """Return how long the first word of a stream took, and all of it."""
        started_at, words = time.perf_counter(), list[float]()
        for piece in self._create(**ASKED, stream=True):
            if piece.choices[0].delta.content:
                words.append(time.perf_counter() - started_at)
        return words[0], time.perf_counter() - started_at

    def at_once(self) -> float:
        """Return how long an answer took on average, of as many as are asked for at once."""
        started_at = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda _: self.whole(), range(CLIENTS)))
        return (time.perf_counter() - started_at) / CLIENTS


def started(command: str, *flags: str) -> subprocess.Popen[str]:
    """Start a command, which is spoken to through pipes."""
    return subprocess.Popen(
        [sys.executable, f"launch/{command}.py", *flags], cwd=Path(__file__).parent.parent,
        encoding="utf-8", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def main() -> None:
    parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/model"
        transformers_of(random_model("gpt2")).save_pretrained(place)
        model = ("--checkpoint", place)
        with (
            started("chat", *model, "--json", "--max-new-tokens", str(NEW_TOKENS)) as chat,
            started("serve", *model, "--port", "0") as server,
        ):
            assert server.stdout is not None
            url = server.stdout.readline().split(" answers at ")[1].split(",")[0]
            try:
                compare(Chat(chat), Served(url))
            finally:
                server.send_signal(signal.SIGINT)


def compare(chat: Chat, served: Served) -> None:
    """Print both figures of all contenders."""
    chat.ask()
    served.whole()  # each has warmed up
    speeds = {
        "chat": lambda: NEW_TOKENS / chat.ask()[1],
        "served": lambda: NEW_TOKENS / served.whole(),
        "streamed": lambda: NEW_TOKENS / served.streamed()[1],
        "four_at_once": lambda: NEW_TOKENS / served.at_once(),
    }
    report("serve", speeds, "chat", "tokens_per_second")
    firsts = {"chat": lambda: chat.ask()[0], "streamed": lambda: served.streamed()[0]}
    report("serve first word", firsts, "chat", "seconds", higher_is_better=False)


if __name__ == "__main__":
    main()
