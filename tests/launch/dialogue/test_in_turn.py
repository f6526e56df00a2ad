"""Who asks a model, and goes away."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from instruct_core.answers.sampling import Sampling
from launch.dialogue.in_turn import InTurn, thread_to_answer
from launch.dialogue.request import Asked
from tests.conftest import HANGS_SECONDS
from tests.launch.dialogue.played_speaker import PlayedSpeaker

ASKED = Asked((), Sampling(), 9, (), streams=True, counts_at_end=False)


def test_answer_that_fails_when_its_asker_has_left_is_no_complaint_of_asyncio() -> None:
    complaints: list[dict[str, Any]] = []

    async def leave() -> None:
        loop, speaker = asyncio.get_running_loop(), PlayedSpeaker()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        in_turn = InTurn(speaker, thread_to_answer())  # type: ignore[arg-type]
        parts = in_turn.parts(["forever and then fail"], ASKED)  # type: ignore[list-item]
        async with asyncio.timeout(HANGS_SECONDS):
            assert await anext(parts) == "You"
            await parts.aclose()
            # The model has one thread: the next answer comes when that one has failed.
            assert [part async for part in in_turn.parts(["Next?"], ASKED)]  # type: ignore[list-item]
        gc.collect()

    asyncio.run(leave())

    assert complaints == []
