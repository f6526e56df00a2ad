"""Where launch/serve.py listens, and what it refuses before it loads a model."""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from threading import Timer, get_ident

import pytest

from instruct_core.errors import ConfigError
from launch import serve as door
from launch.console.lines import guarded
from launch.dialogue import listening
from launch.dialogue.in_turn import thread_to_answer
from launch.dialogue.listening import HttpServer, address_of, listener_at, serve
from launch.flags.run import ModelFlags
from launch.flags.serve import KEY, Serve
from tests.conftest import HANGS_SECONDS
from tests.launch.dialogue.asking import ask
from tests.launch.dialogue.played_speaker import PlayedSpeaker, served

HERE = socket.gethostname()


def test_model_is_loaded_by_the_thread_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that compute have two sets of libgomp's, which then sleep after every product."""
    speaker, loaded_in, answering = PlayedSpeaker(), list[int](), thread_to_answer()
    monkeypatch.setattr(
        listening, "load_speaker", lambda _: loaded_in.append(get_ident()) or speaker
    )

    found = listening.loaded(ModelFlags(), answering)
    with served(speaker, answering=answering) as (url, _):
        ask(url, "Hi.")

    assert found is speaker
    assert [speaker.answered_in] == loaded_in


def test_port_that_is_taken_is_told_before_a_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"^--port {port} is taken on 127\.0\.0\.1\. Give another"
        ):
            serve(Serve(port=port))


def test_port_is_taken_before_a_model_is_loaded() -> None:
    with listener_at(Serve(port=0), "") as listener, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server does

        with pytest.raises(OSError, match="in use"):
            other.bind(listener.getsockname())


def test_server_ends_though_a_client_never_sends_all_of_its_question() -> None:
    with served(PlayedSpeaker(), patience_seconds=0.0) as (url, _):
        host, _, port = url.removeprefix("http://").partition(":")
        client = socket.create_connection((host, int(port)), HANGS_SECONDS)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99\r\n"
        client.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert client.recv(99).startswith(b"HTTP/1.1 100 ")  # now it waits for the question

    with client:  # the server has ended
        assert client.recv(99) == b""


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: ",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
    ],
)
def test_client_that_never_sends_all_of_a_request_is_let_go(
    begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening.Connection, "seconds", 0.2)
    with served(PlayedSpeaker()) as (url, _):
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), HANGS_SECONDS) as client:
            client.sendall(begun)
            with suppress(ConnectionResetError):
                while client.recv(999):  # it may be refused before
                    pass


def test_answer_may_take_longer_than_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening.Connection, "seconds", 0.2)
    speaker = PlayedSpeaker()
    Timer(0.5, speaker.goes_on.set).start()

    with served(speaker) as (url, _):
        assert "wait" in ask(url, "Please wait.")


def test_model_that_is_no_step_of_a_run_is_named_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    speaker = PlayedSpeaker()
    speaker.place = "models/good"
    monkeypatch.setattr(listening, "load_speaker", lambda _: speaker)
    monkeypatch.setattr(HttpServer, "run", lambda *_, **__: None)

    assert serve(Serve(ModelFlags(checkpoint="models/good/"), port=0)) == 0
    assert capfd.readouterr().out.startswith("good answers at http://127.0.0.1:")


def test_server_in_the_background_goes_on_ignoring_ctrl_c() -> None:
    http = HttpServer(None, None)  # type: ignore[arg-type]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with http.capture_signals():
            caught = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, before)

    assert caught == (signal.SIG_IGN, http.handle_exit)


@pytest.mark.parametrize(
    ("flags", "key", "said"),
    [
        (Serve(port=65536), "", "--port must be from 0 to 65535, got 65536."),
        (Serve(port=-1), "", "--port must be from 0 to 65535, got -1."),
        (Serve(port=0, host="0.0.0.0"), "", "--host 0.0.0.0 lets others than this machine ask, so a key"),
        (Serve(port=0, host="no such host"), "", "--host must be an address of this machine, got"),
        (Serve(port=0, host="192.0.2.1"), "key", "of this machine, got '192.0.2.1': "),
        (Serve(port=0), "two words", f"{KEY} must be letters, digits and signs of ASCII without blanks."),
    ],
)  # fmt: skip
def test_place_that_cannot_be_listened_at_is_refused(
    flags: Serve, key: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, key)

    with pytest.raises(ConfigError) as refused:
        serve(flags)

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("0.0.0.0", HERE), ("::", HERE)],
)  # fmt: skip
def test_address_is_one_that_a_browser_finds(host: str, shown: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        port = listener.getsockname()[1]

        assert address_of(listener) == f"http://{shown}:{port}"


def test_package_that_is_missing_is_named_with_how_to_install_it(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(desk)
    monkeypatch.setattr(sys, "argv", ["launch/serve.py", "--run=r"])
    monkeypatch.setattr(door, "find_spec", lambda name: None if name == "uvicorn" else object())

    assert guarded(door.main) == 2
    assert capfd.readouterr().err == (
        "error: This command needs the package uvicorn. Install it: "
        "pip install -c constraints.txt -e '.[serve]'\n"
    )
