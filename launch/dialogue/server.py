"""
A model that programs ask over HTTP, as they ask OpenAI's, and people on a page.

    app = Server(speaker, ("my-run",), defaults, thread_to_answer()).app

    GET /                       the page
    GET /v1/models              the one model, and /v1/models/NAME
    POST /v1/chat/completions   the next answer of a chat, whole or as a stream

Source: OpenAI's API reference; starlette.dev.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from instruct_core.errors import ConfigError
from launch.console.lines import counted, note, one_line
from launch.dialogue.in_turn import InTurn
from launch.dialogue.reply import STREAM_ENDS, Reply, event, model, models, refusal
from launch.dialogue.request import Asked, Defaults, RequestError, check_model_name, read_request
from launch.dialogue.speaker import Answer, ChatTooLongError, Speaker

PAGE = Path(__file__).with_name("page")
LARGEST_BODY = 4 << 20  # bytes of a request: a hundred thousand tokens are half a megabyte
CLIENT_HAS_GONE = 499  # as nginx has it; nobody reads it
COME_AGAIN = {"retry-after": "10"}  # seconds, which clients wait by themselves


class Server:
    """
    What answers requests.

    Args:
        speaker: The model.
        names: By which it may be asked for, its own first.
        defaults: What holds where a request says nothing.
        answering: The thread that answers, and has loaded the model.
    """

    def __init__(
        self,
        speaker: Speaker,
        names: tuple[str, ...],
        defaults: Defaults,
        answering: ThreadPoolExecutor,
    ) -> None:
        self._names, self._defaults = names, defaults
        self._checkpoint = Path(speaker.place).name
        self._created = int(time.time())
        self.in_turn = InTurn(speaker, answering)
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Mount("/", StaticFiles(directory=PAGE, html=True)),
            ],
            exception_handlers={
                RequestError: _refuse,
                HTTPException: _refuse_path,
                ClientDisconnect: _let_go,
            },
        )

    async def _models(self, _: Request) -> Response:
        return JSONResponse(models(self._names[0], self._created))

    async def _model(self, request: Request) -> Response:
        check_model_name(name := request.path_params["name"], self._names)
        return JSONResponse(model(name, self._created))

    async def _chat(self, request: Request) -> Response:
        asked = read_request(await _body(request), self._names, self._defaults)
        try:
            tokens = await self.in_turn.prompt(asked.turns)
        except ChatTooLongError as error:
            raise RequestError(str(error), 400, "messages", "context_length_exceeded") from None
        except ConfigError as error:
            raise RequestError(str(error), 400, "messages") from None
        parts = self.in_turn.parts(tokens, asked)
        reply = Reply(self._names[0], self._checkpoint, int(time.time()))
        if asked.streams:
            unkept = {"cache-control": "no-store"}
            pieces = _pieces(parts, reply, asked)
            return StreamingResponse(pieces, media_type="text/event-stream", headers=unkept)
        return await _whole(request, parts, reply)


async def _body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise RequestError(f"The request must have at most {LARGEST_BODY:,} bytes.", 413)
    return body


async def _pieces(
    parts: AsyncGenerator[str | Answer], reply: Reply, asked: Asked
) -> AsyncIterator[bytes]:
    """Give an answer as events; closed early, as where the client has gone, it ends the answering."""
    yield event(reply.piece(role="assistant", content=""))
    try:
        async with aclosing(parts):
            async for part in parts:
                if isinstance(part, str):
                    yield event(reply.piece(content=part))
                    continue
                _tell(part)
                yield event(reply.piece(part))
                if asked.counts_at_end:
                    yield event(reply.counts(part))
    except Exception as error:
        yield event(refusal(_failed(error)))
    yield STREAM_ENDS


async def _whole(request: Request, parts: AsyncGenerator[str | Answer], reply: Reply) -> Response:
    answering = asyncio.ensure_future(_answer(parts))
    leaving = asyncio.ensure_future(_leaving(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            return Response(status_code=CLIENT_HAS_GONE)
        answer = answering.result()
    except Exception as error:
        raise _failed(error) from None
    finally:
        answering.cancel()
        leaving.cancel()
    if answer is None:
        raise RequestError("This server is ending.", 503)
    _tell(answer)
    return JSONResponse(reply.whole(answer))


async def _answer(parts: AsyncGenerator[str | Answer]) -> Answer | None:
    """Return the whole answer; None where the server ends first."""
    async with aclosing(parts):
        async for part in parts:
            if isinstance(part, Answer):
                return part
    return None


async def _leaving(request: Request) -> None:
    """Wait until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _tell(answer: Answer) -> None:
    _note(
        f"{counted(answer.num_prompt_tokens, 'token')} asked, {answer.num_new_tokens:,} answered in "
        f"{answer.seconds:.2f} s"
    )


def _failed(error: Exception) -> RequestError:
    said = one_line(f"{type(error).__name__}: {error}")
    _note(f"error: A request could not be answered: {said}")
    return RequestError(f"The model could not answer: {said}", 500)


def _note(text: str) -> None:
    with suppress(OSError):  # who read the lines has gone, or their disk is full: answers go on
        note(text)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(
        refusal(error), error.status, COME_AGAIN if error.status in (429, 503) else None
    )


async def _refuse_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # no such path, or not by this method
    said = f"There is no {request.method} {request.url.path} here. There are "
    return await _refuse(request, RequestError(f"{said}/v1/chat/completions and /v1/models.", 404))


async def _let_go(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_HAS_GONE)
