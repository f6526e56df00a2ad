"""The page of launch/serve.py in a browser: what a person types, and what is seen then."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.browser import CHROMIUM, LOOK, NEEDED, Browser
from tests.conftest import HANGS_SECONDS
from tests.launch.dialogue.played_speaker import PlayedSpeaker, served

pytestmark = pytest.mark.skipif(not CHROMIUM, reason=NEEDED)
SAID = "document.getElementById('said').textContent"
TURNS = "[...document.querySelectorAll('.turn')].map(e => e.textContent)"
IS_FREE = "!document.getElementById('send').hidden"


class Person:
    """Somebody at the page."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        browser.visit(url)

    def ask(self, question: str) -> None:
        """Type a question and press Enter."""
        self._browser.value(
            f"(box => {{ box.value = {json.dumps(question)}; box.dispatchEvent(new KeyboardEvent("
            "'keydown', {key: 'Enter', cancelable: true})) })(document.getElementById('question')) ?? 0"
        )

    def press(self, button: str) -> None:
        """Press a button."""
        self._browser.value(f"document.getElementById('{button}').click() ?? 0")

    def set(self, field: str, value: str) -> None:
        """Type into one of the settings."""
        self._browser.value(
            f"(box => {{ box.value = {json.dumps(value)}; box.dispatchEvent(new Event('change')) }})"
            f"(document.getElementById('{field}')) ?? 0"
        )

    def waits_for(self, condition: str) -> None:
        """Wait until something is so in the page; raises AssertionError where it never is."""
        look = f"const look = () => ({condition}) ? done(true) : setTimeout(look, 20); look()"
        late = f"setTimeout(() => done({SAID} + ' | ' + {TURNS}), {HANGS_SECONDS * 1000})"
        found = self._browser.value(f"new Promise(done => {{ {late}; {look} }})")
        assert found is True, (condition, found)

    def sees(self, expression: str) -> object:
        """Return what there is."""
        return self._browser.value(expression)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def test_person_sees_the_answer_as_it_comes_and_may_stop_it(browser: Browser) -> None:
    speaker = PlayedSpeaker()
    with served(speaker) as (url, _):
        person = Person(browser, url)
        person.waits_for("document.title === 'r'")
        person.ask("<i>Hi</i>")
        person.waits_for(f"{IS_FREE} && {TURNS}.length === 2")
        first, said = person.sees(TURNS), str(person.sees(SAID))
        person.ask("forever")
        person.waits_for(f"{TURNS}.length === 4 && {TURNS}[3].endsWith(' and')")
        assert not speaker.called_off.is_set()
        person.press("stop")
        person.waits_for(f"{IS_FREE} && {SAID} === 'Stopped.'")
        assert speaker.called_off.wait(HANGS_SECONDS)
        person.press("new")
        person.waits_for(f"{TURNS}.length === 0")

    assert first == ["<i>Hi</i>", "You asked: <b><i>Hi</i></b>"]
    assert said.startswith("3 tokens in ")
    # What was stopped; now and then chromium says it of a stream that has just ended, too.
    assert set(browser.errors()) == {"net::ERR_ABORTED"}


def test_answer_comes_in_a_browser_that_has_no_loop_over_a_body(browser: Browser) -> None:
    with served(PlayedSpeaker()) as (url, _):
        person = Person(browser, url)
        assert person.sees("delete ReadableStream.prototype[Symbol.asyncIterator]") is True
        person.ask("Hi.")
        person.waits_for(f"{IS_FREE} && {SAID} !== ''")

        assert person.sees(TURNS) == ["Hi.", "You asked: <b>Hi.</b>"]


def test_turns_that_no_longer_fit_are_left_out_and_that_is_said(browser: Browser) -> None:
    with served(speaker := PlayedSpeaker()) as (url, _):
        person = Person(browser, url)
        for question in ("One?", "Two?", "Three?"):  # five turns; it takes three
            person.ask(question)
            person.waits_for(f"{IS_FREE} && {TURNS}.at(-1) === 'You asked: <b>{question}</b>'")
        said = str(person.sees(SAID))
        faint = person.sees("[...document.querySelectorAll('.left-out')].map(e => e.textContent)")

    assert faint == ["One?", "You asked: <b>One?</b>"]
    assert "The oldest turns no longer fit and were left out." in said
    assert speaker.asked == ["One?", "Two?", "Three?"]


def test_question_that_got_no_answer_can_be_changed_and_asked_again(browser: Browser) -> None:
    with served(PlayedSpeaker()) as (url, _):
        person = Person(browser, url)
        person.ask("fail")
        person.waits_for(f"{IS_FREE} && {SAID}.startsWith('The model could not answer')")
        kept = person.sees("document.getElementById('question').value")
        person.ask("Again.")
        person.waits_for(f"{IS_FREE} && {TURNS}.length === 2")

        assert kept == "fail"
        assert person.sees(TURNS) == ["Again.", "You asked: <b>Again.</b>"]


def test_wrong_setting_is_told_as_the_server_tells_it(browser: Browser) -> None:
    with served(PlayedSpeaker()) as (url, _):
        person = Person(browser, url)
        person.set("temperature", "-1")
        person.ask("Hi.")
        person.waits_for(f"{SAID} === 'temperature must be at least 0, got -1.'")
        person.set("temperature", "0.5")
        person.press("send")
        person.waits_for(f"{IS_FREE} && {TURNS}.length === 2")


def test_key_is_asked_for_where_the_server_wants_one(browser: Browser) -> None:
    with served(PlayedSpeaker(), key="s3cret") as (url, _):
        person = Person(browser, url)
        person.waits_for("document.getElementById('settings').open")
        assert "wants its key" in str(person.sees(SAID))
        person.set("key", "s3cret")
        person.waits_for("document.title === 'r' && !document.getElementById('settings').open")
        person.ask("Hi.")
        person.waits_for(f"{IS_FREE} && {TURNS}.length === 2")


@pytest.mark.parametrize("width", [320, 1400])
def test_page_fits_every_screen(browser: Browser, width: int) -> None:
    with served(PlayedSpeaker()) as (url, _):
        browser.resize(width)
        person = Person(browser, url)
        person.waits_for("document.title === 'r'")
        browser.value("document.getElementById('settings').open = true")
        person.ask("A long one. " * 40 + "wideword" * 40)
        person.waits_for(f"{IS_FREE} && {TURNS}.length === 2")

        seen = browser.value(LOOK)

    assert seen["overflowing"] == []
