"""
Answers as OpenAI's clients read them: whole, in pieces, or why there is none.

    reply = Reply("my-run", "step-00000400", created=1764374400)
    reply.whole(answer)                                   # {"object": "chat.completion", ...}
    reply.piece(content="Hello")                            # {"object": "chat.completion.chunk", ...}
    refusal(RequestError("temperature must be ..."))      # {"error": {"message": ...}}

Source: OpenAI's API reference, "The chat completion object", "The chat completion chunk object".
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from launch.console.lines import one_line
from launch.dialogue.request import RequestError
from launch.dialogue.speaker import Answer


class Reply:
    """
    The documents of one answer.

    Args:
        model: Its name.
        checkpoint: Which of its steps answers.
        created: When it was asked, in seconds since 1970.
    """

    def __init__(self, model: str, checkpoint: str, created: int) -> None:
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": created,
            "model": model,
            "system_fingerprint": checkpoint,
        }

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the whole answer as one document."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": _finish(answer),
        }
        return self._head | {
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(answer),
        }

    def piece(self, answer: Answer | None = None, **delta: str) -> dict[str, Any]:
        """Return a piece of a stream; the last one has the answer, and says why it ended."""
        finish = None if answer is None else _finish(answer)
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._head | {"object": "chat.completion.chunk", "choices": [choice]}

    def counts(self, answer: Answer) -> dict[str, Any]:
        """Return the piece that tells how many tokens there were."""
        return self._head | {
            "object": "chat.completion.chunk",
            "choices": [],
            "usage": usage(answer),
        }


def _finish(answer: Answer) -> str:
    return "length" if answer.finish_reason == "length" else "stop"


def usage(answer: Answer) -> dict[str, int]:
    """Return how many tokens were asked and answered."""
    asked, answered = answer.num_prompt_tokens, answer.num_new_tokens
    return {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
    }


def refusal(error: RequestError) -> dict[str, Any]:
    """Return the document of a request that gets no answer."""
    kind = "invalid_request_error" if error.status < 429 else "server_error"
    param = None if error.param is None else one_line(error.param)  # a client's own words
    told = {"message": one_line(str(error)), "type": kind, "param": param, "code": error.code}
    return {"error": told}


def models(name: str, created: int) -> dict[str, Any]:
    """Return the list of models, which is one."""
    return {"object": "list", "data": [model(name, created)]}


def model(name: str, created: int) -> dict[str, Any]:
    """Return what there is to tell of the model."""
    return {"id": name, "object": "model", "created": created, "owned_by": "instruct-cluster"}


def event(document: dict[str, Any]) -> bytes:
    """Return a piece as an event of a stream, in ASCII: some clients see more ends of lines in others."""
    return f"data: {json.dumps(document)}\n\n".encode()


STREAM_ENDS = b"data: [DONE]\n\n"
