"""Who may ask launch/serve.py, and who may not."""

from __future__ import annotations

import json

import openai
import pytest

from launch.flags.serve import KEY
from tests.launch.dialogue.asking import ask, asking, client, request
from tests.launch.dialogue.played_speaker import PlayedSpeaker, served


@pytest.mark.parametrize(
    "header",
    [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "[::1"}],
)  # fmt: skip
def test_page_of_somebody_else_is_not_answered(
    speaker: PlayedSpeaker, url: str, header: dict[str, str]
) -> None:
    for path in ("/v1/chat/completions", "/"):
        status, said = request(url, "POST", path, asking("Hi."), **header)

        assert status == 403
        assert KEY in json.loads(said)["error"]["message"]
    assert speaker.asked == []
    for own in ("http://localhost:80", url, "http://[::1]:8000"):
        assert request(url, "POST", "/v1/chat/completions", asking("Hi."), Origin=own)[0] == 200


def test_with_a_key_only_those_who_send_it_are_answered(speaker: PlayedSpeaker) -> None:
    with served(speaker, key="s3cret") as (url, _):
        with pytest.raises(
            openai.AuthenticationError, match=f"its key, the {KEY}.*another one was sent"
        ):
            ask(url, "Hi.")
        assert "none was sent" in request(url, "GET", "/v1/models")[1]
        assert speaker.asked == []
        with client(url, key="s3cret") as asked:
            assert [model.id for model in asked.models.list()] == ["r"]
        assert request(url, "GET", "/v1/models", Authorization="bearer s3cret")[0] == 200
        assert request(url, "GET", "/", Host="login1.cluster")[0] == 200
