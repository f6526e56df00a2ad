"""
A chat template in jinja, as bases bring them and transformers applies them, in segments.

    template = JinjaTemplate("jinja-lf-5c1d5d8f9ad4", text, tokenizer)
    template.segments(chat.turns)

What a chat says is learnt where an answer makes the text longer: what stands behind the prompt, up to
the special token that ends it. Templates come from strangers, so they run in jinja's sandbox, within
limits; the date is not among what they can ask for (`strftime_now`), as the same rows make the same
shards. A special token is only one that the template itself writes: spelled in a row it is ordinary text.

Source: transformers' utils/chat_template_utils.py (settings of the environment, names of what a
template can use).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables

from instruct_core.data.jinja_limits import BoundedEnvironment, EndlessError
from instruct_core.data.template import NO_TOOLS, Segment
from instruct_core.data.tokenizer import Tokenizer
from instruct_core.data.turns import Turn
from instruct_core.data.values import checked
from instruct_core.errors import ConfigError

# Part of the fingerprint, before a hash of the text. By the first, line breaks of Windows stayed.
JINJA_1, JINJA = "jinja-", "jinja-lf-"
SHOWN_CHARS = 40
OBJECT = re.compile(r"(<[^<>\n]{1,80}) (at 0x[0-9a-f]+)>")
PRIVATE = range(0xE000, 0xF8FF)  # characters that no text means anything by


class _Generation(Extension):
    """`{% generation %}`, by which templates mark answers: here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012  as jinja declares it

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class JinjaTemplate:
    """
    A template in jinja; see the module's page.

    Args:
        name: See `Template`.
        text: Its source.
        tokenizer: Whose special tokens it may write.
        what: How messages call it, if not by its name.

    Raises:
        ValueError: It is no jinja.
    """

    heading = ""

    def __init__(self, name: str, text: str, tokenizer: Tokenizer, what: str = "") -> None:
        self.name, self.text, self._what = name, text, what or name
        self._is_lf = name.startswith(JINJA)
        self._knows_tools = False
        environment = BoundedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        self._environment = environment
        environment.add_filter("tojson", _to_json)
        environment.globals["raise_exception"] = _raise
        try:
            self._template = environment.from_string(text)
            self._knows_tools = "tools" in find_undeclared_variables(environment.parse(text))
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"line {error.lineno}: {error.message}") from None
        self._names = _names_of_tokens(tokenizer)
        longest_first = sorted(map(re.escape, tokenizer.specials), key=len, reverse=True)
        self._special = re.compile("|".join(longest_first) or r"(?!)")

    @cached_property
    def _knows_calls(self) -> bool:
        return "tool_calls" in self.text

    def segments(self, turns: Sequence[Turn], asks: bool = False) -> list[Segment]:
        """Return the chat in pieces; see `Template`."""
        given = turns[0].tools if turns else ()
        if given and not self._knows_tools:
            raise ValueError(NO_TOOLS)
        mark = self._mark_for(turns)
        tools = self._marked(list(given), mark)
        if given and not turns[0].text.strip():  # it is there for the tools alone
            turns = turns[1:]
        messages = [self._message(turn, mark) for turn in turns]
        whole = self.render(messages, asks, tools)
        if asks:  # nobody learns from it: earlier answers may stand in it as the template pleases
            return self._pieces(whole, mark)
        segments: list[Segment] = []
        place = 0
        for number, turn in enumerate(turns, start=1):
            if turn.role != "assistant":
                continue
            prompt = self.render(messages[: number - 1], True, tools)
            is_last = number == len(turns)
            answered = whole if is_last else self.render(messages[:number], False, tools)
            _check_beginning(prompt, answered, number, "the answer")
            _check_beginning(answered, whole, number + 1, "what follows")
            end = len(prompt) + self._end_of(answered[len(prompt) :], number)
            segments += self._pieces(whole[place : len(prompt)], mark)
            segments += self._pieces(whole[len(prompt) : end], mark, turn.learnt)
            place = end
        return segments + self._pieces(whole[place:], mark)

    def exchange(self, question: str, context: str, answer: str) -> None:
        """Return None: each row is rendered; see `Template`."""

    def writes_anew(self, turns: Sequence[Turn]) -> bool:
        """Return True if the version before this one wrote these turns in another way."""
        return self._is_lf and any("\r\n" in turn.text + turn.input for turn in turns)

    def render(
        self, messages: Sequence[dict[str, Any]], asks: bool = False, tools: Sequence[Any] = ()
    ) -> str:
        """
        Return the text of messages.

        Raises:
            ConfigError: It would not end: no row is worth waiting for then.
            ValueError: It refuses these messages; has the template's own words.
        """
        try:
            text = self._environment.render(
                self._template,
                messages=messages,
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=asks,
                **self._names,
            )
            if "at 0x" in text:
                _refuse_objects(text, f"{self.text}{messages!r}{tools!r}")
            return checked(text, "what it writes")
        except Exception as error:  # whatever a stranger's code comes to
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            turn = f"turn {len(messages)} ({messages[-1]['role']})"
            reason = f"it stops at {turn}: {reason.rstrip('.')}"
            if isinstance(error, EndlessError):
                raise ConfigError(
                    f"Template {self._what} cannot be used: {reason}. Change it, or give another, as "
                    "--template chatml."
                ) from None
            raise ValueError(reason) from None

    def _message(self, turn: Turn, mark: str) -> dict[str, Any]:
        if not (turn.calls and self._knows_calls):
            return {"role": turn.role, "content": self._said(turn.spoken, mark)}
        calls = [
            {"type": "function", "function": self._marked(dict(call), mark)} for call in turn.calls
        ]
        return {"role": turn.role, "content": self._said(turn.text, mark), "tool_calls": calls}

    def _said(self, text: str, mark: str) -> Any:
        return self._marked(text.replace("\r\n", "\n") if self._is_lf else text, mark)

    def _mark_for(self, turns: Sequence[Turn]) -> str:
        """Return a character to put into special tokens that a chat spells; "" where it spells none."""
        said = "".join(turn.text + turn.spoken for turn in turns)
        if turns and turns[0].tools:
            said += json.dumps(turns[0].tools, ensure_ascii=False)
        if not self._special.search(said):
            return ""
        return next(chr(code) for code in PRIVATE if chr(code) not in said)

    def _marked(self, value: Any, mark: str) -> Any:
        if isinstance(value, dict):
            return {self._marked(k, mark): self._marked(v, mark) for k, v in value.items()}
        if isinstance(value, list):
            return [self._marked(entry, mark) for entry in value]
        if not (mark and isinstance(value, str)):
            return value
        while found := self._special.search(value):
            cut = found.start() + 1
            value = value[:cut] + mark + value[cut:]
        return value

    def _end_of(self, answer: str, number: int) -> int:
        """Return where the special token that ends an answer ends; blanks alone may follow it."""
        found = list(self._special.finditer(answer))
        if not found or answer[found[-1].end() :].strip():
            raise ValueError(
                f"behind turn {number} (assistant) stands {_shown(answer[-SHOWN_CHARS:])}, and no "
                "special token that ends it"
            )
        return found[-1].end()

    def _pieces(self, text: str, mark: str, is_learnt: bool = False) -> list[Segment]:
        pieces: list[Segment] = []
        place = 0
        for found in self._special.finditer(text):
            pieces += [
                Segment(text[place : found.start()], is_learnt), Segment(found[0], is_learnt, True)
            ]  # fmt: skip
            place = found.end()
        pieces.append(Segment(text[place:], is_learnt))
        return [
            piece
            if piece.is_special or not mark
            else piece._replace(text=piece.text.replace(mark, ""))
            for piece in pieces
            if piece.text
        ]


def name_before(name: str) -> str:
    """Return the name of the same template in the version before."""
    return name.replace(JINJA, JINJA_1, 1)


def _check_beginning(before: str, after: str, number: int, what: str) -> None:
    """Refuse a template that changes what it wrote as soon as a turn is added."""
    if after.startswith(before):
        return
    place = next(
        n for n, (a, b) in enumerate(zip(before + "\0", after + "\1", strict=False)) if a != b
    )
    raise ValueError(
        f"with turn {number}, {what}, the text before it changes: {_shown(before[place:])} becomes "
        f"{_shown(after[place:])}"
    )


def _refuse_objects(text: str, given: str) -> None:
    """Refuse a method that is not called, or the like: it is written as its place in memory."""
    for found in OBJECT.finditer(text):
        if found[2] not in given:
            raise ValueError(
                f"it writes {found[1]}> and its place in memory, which is no text (is it to be called?)"
            )


def _shown(text: str) -> str:
    return repr(text[:SHOWN_CHARS])


def _names_of_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """Return the special tokens under the names that templates use: bos_token, eos_token..."""
    names = {"eos_token": tokenizer.decode([tokenizer.end_id])}
    if not tokenizer.files:
        names["bos_token"] = names["unk_token"] = names["eos_token"]  # GPT-2 has one for all
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        document = json.loads(tokenizer.files.get(file, b"{}"))
        for name, value in document.items():
            text = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(text, str):
                names[name] = text
    return names


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter writes characters of HTML in another way."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
