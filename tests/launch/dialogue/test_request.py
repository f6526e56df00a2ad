"""What a client may ask for: each field is done, has no part in the answer, or is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from instruct_core.answers.sampling import Sampling
from instruct_core.data.turns import Turn
from launch.dialogue.request import Asked, Defaults, RequestError, read_request

ASKS = [{"role": "user", "content": "Hi."}]
DEFAULTS = Defaults(Sampling(temperature=0.5, seed=7), 99)


def read(**fields: Any) -> Asked:
    body = json.dumps({"messages": ASKS, **fields}).encode()
    return read_request(body, ("r", "some/r"), DEFAULTS)


def refusal(**fields: Any) -> RequestError:
    with pytest.raises(RequestError) as refused:
        read(**fields)
    return refused.value


def test_what_a_request_leaves_out_is_as_the_server_was_started() -> None:
    asked = read(temperature=None, max_tokens=None, stop=None, stream=None)

    assert asked == Asked((Turn("user", "Hi."),), DEFAULTS.sampling, 99, (), False, False)


def test_every_field_of_a_request_is_read() -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Bye."},
    ]
    chosen = {
        "temperature": 1, "top_p": 0.5, "top_k": 3, "repetition_penalty": 1.1, "seed": 2,
        "max_tokens": 5, "stop": "\n", "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip

    asked = read(model="some/r", messages=messages, **chosen, user="me", metadata={"a": "b"}, n=1)

    assert [turn.text for turn in asked.turns] == ["Be brief.", "Hi.", "Hello.", "Bye."]
    assert asked.sampling == Sampling(1.0, 3, 0.5, 1.1, 2)
    assert asked[2:] == (5, ("\n",), True, True)


def test_newer_name_of_the_longest_answer_is_the_one_that_holds() -> None:
    assert read(max_completion_tokens=3, max_tokens=5).max_new_tokens == 3


WRONG = {
    "temperature": [
        (-1, "temperature must be at least 0, got -1"), ("hot", 'got "hot"'), (True, "true"),
        (10**309, "must be at least 0, got 1000"),
    ],
    "top_k": [(2.5, "top_k must be a whole number, at least 0, got 2.5")],
    "top_p": [(0, "top_p must be more than 0 and at most 1, got 0")],
    "seed": [(2**63, "seed must be a whole number, at least 0 and less than 2**63")],
    "max_tokens": [(0, "max_tokens must be a whole number, at least 1, got 0"), (True, "got true")],
    "max_completion_tokens": [(1.5, "max_completion_tokens must be a whole number")],
    "stop": [([""], "none of them empty"), (["a"] * 17, "at most 16 texts"), (5, "a text or a list")],
    "stream": [("yes", "stream must be true or false, got a text")],
    "stream_options": [([], "stream_options must be an object, got a list")],
    "n": [(2, "n is not done here. Leave it out, or send 1."), (True, "send 1.")],
    "logprobs": [(True, "logprobs is not done here. Leave it out, or send false.")],
    "tools": [([{"type": "function"}], "tools is not done here")],
    "response_format": [({"type": "json_object"}, 'or send {"type": "text"}.')],
    "best_of": [(3, "best_of is not known here. Leave it out.")],
    "messages": [
        ("Hi.", "messages must be a list of messages, got a text"),
        ([], "messages has roles []"),
        (["Hi."], "message 1 is a text, expected an object"),
        ([{"role": "user"}], "message 1: content is missing"),
        ([{"role": "owl", "content": "Hu."}], "message 1 has role 'owl'"),
        ([{"role": "user", "content": " "}], "messages has a question that is empty"),
        ([*ASKS, {"role": "assistant", "content": "Hm."}], "a user or a tool as the last one"),
        ([{"role": "assistant", "content": "Yes?"}, *ASKS], "begins with an assistant's"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "type image_url, which is no text"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "said"), [(name, *case) for name, cases in WRONG.items() for case in cases]
)
def test_wrong_field_is_named_with_what_is_wrong_about_it(name: str, value: Any, said: str) -> None:
    error = refusal(**{name: value})

    assert said in str(error)
    assert (error.status, error.param) == (400, name)
    assert "\n" not in str(error)


def test_model_that_is_not_here_is_refused_with_the_one_that_is() -> None:
    error = refusal(model="gpt-4")

    assert str(error) == "Model 'gpt-4' is not here. Ask for 'r'."
    assert (error.status, error.code) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON"), (b"{oops", "no JSON"), (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "no JSON"), (b"[1]", "must be a JSON object, got a list"),
        (b'{"n": 1, "n": 2}', "the key 'n' stands twice"),
        (b'{"model": "r"}', "messages must be a list of messages, got null"),
        (b'{"temperature": NaN, "messages": []}', "messages has roles []"),
    ],
)  # fmt: skip
def test_body_that_is_no_request_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=r"^[^\n]*$") as refused:
        read_request(body, ("r",), DEFAULTS)

    assert said in str(refused.value)
