"""
A request for the next answer of a chat, as OpenAI's clients write it.

    asked = read_request(body, names=("my-run",), defaults=Defaults(Sampling(), max_new_tokens=512))
    asked.turns, asked.sampling.temperature, asked.streams      # (Turn("user", "Hi."),), 0.7, True

What would change the answer and is not done here is refused by name; what says nothing of the answer,
such as `user`, is taken and left.

Source: OpenAI's API reference, "Create chat completion".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from instruct_core.answers.sampling import Sampling
from instruct_core.data.dialects.openai import turn_of
from instruct_core.data.turns import Turn, ordered
from instruct_core.data.values import a_type
from instruct_core.storage.json_text import parse_json

MOST_STOPS = 16
# What is read here, and what a client may send that has no part in the answer.
LENGTHS = ("max_completion_tokens", "max_tokens")  # the first that is there holds
READ = {
    "model", "messages", "stream", "stream_options", "stop", *LENGTHS,
    *(setting.name for setting in fields(Sampling)),
}  # fmt: skip
NO_PART = {
    "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
    "service_tier", "store", "user",
}  # fmt: skip
# What is not done here, with what a client may send that asks for nothing.
NOT_DONE: dict[str, tuple[Any, ...]] = {
    "n": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},),
    "logprobs": (False,), "top_logprobs": (0,), "response_format": ({"type": "text"},), "tools": ([],),
    "tool_choice": ("none", "auto"), "functions": ([],), "function_call": ("none", "auto"),
    "modalities": (["text"],),
}  # fmt: skip


class RequestError(Exception):
    """
    A request that gets no answer.

    Args:
        message: What, which value, what to do.
        status: HTTP's.
        param: The field it is about.
        code: OpenAI's word for it.
    """

    def __init__(
        self, message: str, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


class Defaults(NamedTuple):
    """What holds where a request says nothing."""

    sampling: Sampling
    max_new_tokens: int


class Asked(NamedTuple):
    """What is to be answered, and how."""

    turns: tuple[Turn, ...]
    sampling: Sampling
    max_new_tokens: int
    ends: tuple[str, ...]  # texts that end the answer
    streams: bool
    counts_at_end: bool  # of a stream: a last piece tells how many tokens there were


def read_request(body: bytes, names: Sequence[str], defaults: Defaults) -> Asked:
    """
    Return what is asked for.

    Args:
        body: Of the request, JSON.
        names: Of the model that answers; a request may name none.
        defaults: See there.

    Raises:
        RequestError: It is no such request, or asks for what is not done here.
    """
    request = _object(body)
    for name, value in request.items():
        _check_is_done(name, value)
    check_model_name(request.get("model", names[0]), names)
    options = _typed(request, "stream_options", dict, "an object", {})
    return Asked(
        turns=_turns(request),
        sampling=_sampling(request, defaults.sampling),
        max_new_tokens=_max_new_tokens(request, defaults.max_new_tokens),
        ends=_ends(request),
        streams=_typed(request, "stream", bool, "true or false", False),
        counts_at_end=bool(options.get("include_usage")),
    )


def check_model_name(name: object, names: Sequence[str]) -> None:
    """Raise RequestError for a model that is none of those names, its own first."""
    if name not in names:
        raise RequestError(
            f"Model {name!r} is not here. Ask for {names[0]!r}.", 404, "model", "model_not_found"
        )


def _object(body: bytes) -> dict[str, Any]:
    """Return the fields that say something: a client's null is what it leaves out."""
    try:
        request = parse_json(body)
    except ValueError as error:
        raise RequestError(f"The body is no JSON that can be read: {error}.") from None
    if not isinstance(request, dict):
        raise RequestError(f"The body must be a JSON object, got {a_type(request)}.")
    return {name: value for name, value in request.items() if value is not None}


def _check_is_done(name: str, value: Any) -> None:
    if name in READ or name in NO_PART:
        return
    if name not in NOT_DONE:
        raise RequestError(f"{name} is not known here. Leave it out.", param=name)
    nothing = NOT_DONE[name]
    if not any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in nothing
    ):
        said = json.dumps(nothing[0])
        raise RequestError(f"{name} is not done here. Leave it out, or send {said}.", param=name)


def _typed(request: dict[str, Any], name: str, kind: type, words: str, default: Any) -> Any:
    value = request.get(name, default)
    if not isinstance(value, kind):
        raise RequestError(f"{name} must be {words}, got {a_type(value)}.", param=name)
    return value


def _turns(request: dict[str, Any]) -> tuple[Turn, ...]:
    messages = _typed(request, "messages", list, "a list of messages", None)
    try:
        turns = [_turn(message, f"message {number}") for number, message in enumerate(messages, 1)]
        chat = ordered(turns, is_answered=False)
    except ValueError as error:
        said = str(error)
        what = "" if said.startswith("message ") else "messages "
        raise RequestError(f"{what}{said}.", param="messages") from None
    if chat.has_open_start:
        raise RequestError(
            "messages begins with an assistant's, and must begin with a user's, or a system's and then "
            "a user's.", param="messages",
        )  # fmt: skip
    return chat.turns


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, dict):
        raise ValueError(f"{where} is {a_type(message)}, expected an object")
    return turn_of(message, where)


def _sampling(request: dict[str, Any], default: Sampling) -> Sampling:
    chosen: dict[str, Any] = {}
    for setting in fields(Sampling):
        if (value := request.get(setting.name)) is None:
            continue
        is_whole = isinstance(getattr(default, setting.name), int)
        is_number = type(value) in ((int,) if is_whole else (int, float))  # and no bool
        rule = setting.metadata["rule"]
        # Of an integer that no float is as large as, this makes infinity, which no rule lets in.
        number = float(str(value)) if is_number and not is_whole else value
        if not is_number or not rule.holds(number):
            kind = "a whole number, " if is_whole else ""
            raise RequestError(
                f"{setting.name} must be {kind}{rule.words}, got {json.dumps(value)}.",
                param=setting.name,
            )
        chosen[setting.name] = number
    return replace(default, **chosen)


def _max_new_tokens(request: dict[str, Any], default: int) -> int:
    name = next((name for name in LENGTHS if name in request), "")
    value = request.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(
            f"{name} must be a whole number, at least 1, got {json.dumps(value)}.", param=name
        )
    return value


def _ends(request: dict[str, Any]) -> tuple[str, ...]:
    stop = request.get("stop", [])
    ends = [stop] if isinstance(stop, str) else stop
    if (
        not isinstance(ends, list)
        or len(ends) > MOST_STOPS
        or not all(isinstance(end, str) and end for end in ends)
    ):
        raise RequestError(
            f"stop must be a text or a list of at most {MOST_STOPS} texts, none of them empty.",
            param="stop",
        )
    return tuple(ends)
