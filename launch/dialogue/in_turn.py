"""
One model that answers many, one after the other, in the order in which they asked.

    in_turn = InTurn(speaker, thread_to_answer())
    tokens = await in_turn.prompt(asked.turns)
    async for part in in_turn.parts(tokens, asked): ...      # texts, then an Answer

Who goes away before the answer is there is not answered on: the next one's turn comes at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor

from instruct_core.data.turns import Turn
from launch.dialogue.request import Asked, RequestError
from launch.dialogue.speaker import Answer, Speaker

MOST_WAITING = 100  # requests; who comes then is told to come again, as clients do by themselves


def thread_to_answer() -> ThreadPoolExecutor:
    """
    Return a thread that loads a model and answers, and is the only one that computes.

    For each thread that computes, libgomp keeps as many as there are cores; of two such sets each sleeps
    after every product, and a token takes a fifth longer (bench/serve.py).
    """
    return ThreadPoolExecutor(1, thread_name_prefix="answers")


class InTurn:
    """
    A model and those who wait for it; all but the reading and answering itself is of one event loop.

    Args:
        speaker: The model.
        answering: The one thread that answers; see `thread_to_answer`.
    """

    def __init__(self, speaker: Speaker, answering: ThreadPoolExecutor) -> None:
        self._speaker, self._answering = speaker, answering
        # A long question is read while another is answered, and holds nobody else up meanwhile.
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="questions")
        self._num_reading = 0  # questions that are being read
        self.num_waiting = 0  # who asked and has no answer yet
        self.is_over = False  # no further token for anybody; a signal's handler may set it

    async def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """
        Return the tokens of a whole chat.

        Raises:
            RequestError: Too many wait already.
            ConfigError: As `Speaker.prompt`.
        """
        if (waiting := self._num_reading + self.num_waiting) >= MOST_WAITING:
            raise RequestError(
                f"{waiting} requests wait for this model already. Ask again later.", 429
            )

        def read() -> list[int]:
            return [] if self.is_over else self._speaker.prompt(turns)

        self._num_reading += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, read)
        finally:
            self._num_reading -= 1

    async def parts(self, tokens: list[int], asked: Asked) -> AsyncGenerator[str | Answer]:
        """Give the parts of an answer as they come, and at last the answer; none once it is over."""
        loop, said = asyncio.get_running_loop(), asyncio.Queue[str | BaseException | None]()
        is_gone = False

        def goes_on() -> bool:
            return not (is_gone or self.is_over)

        def on_text(text: str) -> None:
            loop.call_soon_threadsafe(said.put_nowait, text)

        def answer() -> Answer | None:
            if not goes_on():
                return None
            return self._speaker.reply(
                tokens, asked.sampling, asked.max_new_tokens, on_text, asked.ends, goes_on
            )

        self.num_waiting += 1
        answering = loop.run_in_executor(self._answering, answer)
        # What went wrong is looked at here, because who has gone does not: asyncio would complain.
        answering.add_done_callback(lambda done: said.put_nowait(done.exception()))
        try:
            while isinstance(text := await said.get(), str):
                if text:
                    yield text
            if (answered := await answering) is not None:
                yield answered
        finally:
            is_gone = True
            self.num_waiting -= 1
