"""launch/serve.py as programs use it, one of them OpenAI's own client."""

from __future__ import annotations

import http.client
import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from launch.dialogue import in_turn, server
from tests.conftest import HANGS_SECONDS, launch, start, wait_for
from tests.launch.dialogue.asking import ask, asking, client, request
from tests.launch.dialogue.played_speaker import PlayedSpeaker, served
from tests.tiny_runs import line_of


def test_run_answers_openais_client_as_it_answers_in_a_chat(trained: Path) -> None:
    flags = ("--run=r", "--temperature=1", "--top-k=20", "--max-new-tokens=12")
    talk = launch("chat", *flags, "--json", "--prompt=Say number 3.", cwd=trained)
    expected = json.loads(talk.stdout)
    messages = [{"role": "user", "content": "Say number 3."}]
    launcher = start("serve", *flags, "--port=0", cwd=trained)
    try:
        line = line_of(launcher, "answers at")
        url = line.split(" answers at ")[1].split("/v1")[0]
        with client(url) as asked:
            create = asked.chat.completions.create
            names = [model.id for model in asked.models.list()]
            whole = create(model="r", messages=messages)  # type: ignore[call-overload]
            streamed = {"stream": True, "stream_options": {"include_usage": True}}
            pieces = list(create(model="r", messages=messages, **streamed))  # type: ignore[call-overload]
            third = expected["response"].split()[2]
            short = create(model="r", messages=messages, stop=[third, "not there"])  # type: ignore[call-overload]
        launcher.send_signal(signal.SIGINT)
        _, said = launcher.communicate(timeout=HANGS_SECONDS)
    finally:
        launcher.kill()

    choice = whole.choices[0]
    assert line.startswith("r, step-00000004, answers at http://127.0.0.1:")
    assert names == ["r"]
    assert choice.message.content == expected["response"]
    assert choice.finish_reason == expected["finish_reason"] == "length"
    counted = (expected["prompt_tokens"], expected["new_tokens"])
    for usage in (whole.usage, pieces[-1].usage):
        assert (usage.prompt_tokens, usage.completion_tokens) == counted
    said_parts = [piece.choices[0].delta.content or "" for piece in pieces[:-1]]
    assert "".join(said_parts) == expected["response"]
    assert len(said_parts) > 3
    assert pieces[-2].choices[0].finish_reason == "length"
    before_third = expected["response"].partition(third)[0]
    assert short.choices[0].message.content == before_third.rstrip()
    assert short.choices[0].finish_reason == "stop"
    assert launcher.returncode == 0
    assert said.splitlines()[-1] == "Stopped."


def test_questions_are_answered_one_after_the_other_as_they_came(speaker: PlayedSpeaker) -> None:
    with ThreadPoolExecutor(3) as pool, served(speaker) as (url, answers):
        first = pool.submit(ask, url, "wait 1")
        assert speaker.waits.wait(HANGS_SECONDS)
        second = pool.submit(ask, url, "2")
        wait_for(lambda: answers.in_turn.num_waiting == 2 or second.done(), "the second question")
        third = pool.submit(ask, url, "3", stream=False)
        wait_for(lambda: answers.in_turn.num_waiting == 3 or third.done(), "the third question")
        assert not second.done()
        speaker.goes_on.set()
        said = [answer.result(HANGS_SECONDS) for answer in (first, second, third)]

    assert speaker.asked == ["wait 1", "2", "3"]
    assert said == [f"You asked: <b>{question}</b>" for question in speaker.asked]


def test_question_that_takes_long_to_read_holds_nobody_else_up(speaker: PlayedSpeaker) -> None:
    with ThreadPoolExecutor(1) as pool, served(speaker) as (url, _):
        huge = pool.submit(ask, url, "huge")
        wait_for(lambda: speaker.reads.is_set() or huge.done(), "the huge question to be read")
        assert request(url, "GET", "/v1/models")[0] == 200
        assert not huge.done()
        speaker.goes_on.set()

        assert huge.result(HANGS_SECONDS) == "You asked: <b>huge</b>"


@pytest.mark.parametrize("stream", [True, False])
def test_answer_that_nobody_waits_for_any_more_is_called_off(
    speaker: PlayedSpeaker, url: str, stream: bool
) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=HANGS_SECONDS)
    connection.request("POST", "/v1/chat/completions", asking("forever", stream=stream))
    assert speaker.waits.wait(HANGS_SECONDS)
    connection.close()

    assert speaker.called_off.wait(HANGS_SECONDS)
    assert ask(url, "Next?") == "You asked: <b>Next?</b>"


def test_question_whose_asker_left_before_its_turn_is_never_put(speaker: PlayedSpeaker) -> None:
    with ThreadPoolExecutor(1) as pool, served(speaker) as (url, answers):
        first = pool.submit(ask, url, "wait 1")
        assert speaker.waits.wait(HANGS_SECONDS)
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=HANGS_SECONDS)
        connection.request("POST", "/v1/chat/completions", asking("2"))
        wait_for(lambda: answers.in_turn.num_waiting == 2, "the second question")
        connection.close()
        wait_for(lambda: answers.in_turn.num_waiting == 1, "the second asker to be gone")
        speaker.goes_on.set()
        first.result(HANGS_SECONDS)
        assert ask(url, "3") == "You asked: <b>3</b>"

    assert speaker.asked == ["wait 1", "3"]


def test_who_comes_when_too_many_wait_is_told_to_come_again(
    speaker: PlayedSpeaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_turn, "MOST_WAITING", 1)
    with ThreadPoolExecutor(1) as pool, served(speaker) as (url, _):
        first = pool.submit(ask, url, "wait 1")
        assert speaker.waits.wait(HANGS_SECONDS)
        with pytest.raises(
            openai.RateLimitError, match=r"1 requests? waits? for this model already"
        ) as refused:
            ask(url, "2", stream=True)
        assert refused.value.response.headers["retry-after"] == "10"
        speaker.goes_on.set()
        first.result(HANGS_SECONDS)


def test_answer_that_fails_is_told_and_the_next_question_is_answered(
    url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said = r"The model could not answer: MemoryError: no room ↵ at all"
    with pytest.raises(openai.InternalServerError, match=said):
        ask(url, "fail")
    with client(url) as asked:
        messages = [{"role": "user", "content": "fail"}]
        pieces = asked.chat.completions.create(model="r", messages=messages, stream=True)  # type: ignore[call-overload]
        with pytest.raises(openai.APIError, match=said):
            list(pieces)

    assert ask(url, "Next?") == "You asked: <b>Next?</b>"
    assert capfd.readouterr().err.count("error: A request could not be answered: MemoryError") == 2


def test_answers_go_on_where_nobody_reads_what_the_server_says(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(server, "note", gone)

    assert ask(url, "Hi.") == "You asked: <b>Hi.</b>"
    assert "[DONE]" in request(url, "POST", "/v1/chat/completions", asking("Hi.", stream=True))[1]
    with pytest.raises(openai.InternalServerError, match="no room"):
        ask(url, "fail")


def test_every_line_of_a_stream_is_an_event_to_who_splits_at_any_end_of_line(url: str) -> None:
    body = asking("Hi\u2028there\x85.", stream=True)

    _, said = request(url, "POST", "/v1/chat/completions", body)

    lines = [line.removeprefix("data: ") for line in said.splitlines() if line]
    pieces = [json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines[:-1]]
    assert "".join(pieces) == "You asked: <b>Hi\u2028there\x85.</b>"


def test_refusal_of_what_utf_8_cannot_write_is_one_line_that_it_can(url: str) -> None:
    body = asking("Hi.", **{"half \ud800\nof a character": 1})

    status, said = request(url, "POST", "/v1/chat/completions", body)

    assert status == 400
    assert "\n" not in json.loads(said)["error"]["message"]


def test_server_that_ends_lets_no_answer_grow(speaker: PlayedSpeaker) -> None:
    with ThreadPoolExecutor(1) as pool:
        with served(speaker) as (url, _):
            cut = pool.submit(ask, url, "wait")
            assert speaker.waits.wait(HANGS_SECONDS)

        assert cut.result(HANGS_SECONDS) == "cut"


def test_chat_that_is_too_long_is_refused_and_not_cut(url: str) -> None:
    turns = [
        {"role": role, "content": "Hm."}
        for role in ("user", "assistant", "user", "assistant", "user")
    ]
    body = json.dumps({"messages": turns})

    status, said = request(url, "POST", "/v1/chat/completions", body)

    error = json.loads(said)["error"]
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/v1/chat/completions", 404, "There is no GET /v1/chat/completions here"),
        ("POST", "/v1/completions", 404, "There is no POST /v1/completions here"),
        ("GET", "/v1/models/other", 404, "Model 'other' is not here. Ask for 'r'."),
        ("GET", "/../server.py", 404, "There is no GET"),
        ("POST", "/v1/chat/completions", 400, "no JSON"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_told_as_clients_read_it(
    url: str, method: str, path: str, status: int, said: str
) -> None:
    found, body = request(url, method, path, "{oops" if method == "POST" else None)

    assert found == status
    assert said in json.loads(body)["error"]["message"]


def test_request_of_any_length_is_not_kept(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LARGEST_BODY", 1000)

    status, said = request(url, "POST", "/v1/chat/completions", asking("word " * 1000))

    assert status == 413
    assert "at most 1,000 bytes" in said
