"""
Templates by their names: typed, or as a plan or a checkpoint has them.

    template = choose_template("chatml", tokenizer)          # or alpaca, base, a .jinja file
    template_of(template.name, template.text, tokenizer)     # the same one again, on another machine

A template is checked before it is used: on a chat of four turns, each prefix must render to a prefix of
the whole, and a special token must stand behind every answer.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import orjson
import xxhash

from instruct_core.data.alpaca import (
    ALPACA,
    ALPACA_1,
    ALPACA_2,
    ALPACA_2_JINJA,
    ALPACA_JINJA,
    Alpaca,
)
from instruct_core.data.gpt2_tokenizer import END_OF_TEXT
from instruct_core.data.jinja_template import JINJA, JinjaTemplate, name_before
from instruct_core.data.template import BASE, Template, text_of
from instruct_core.data.tokenizer import Tokenizer
from instruct_core.data.turns import Exchange
from instruct_core.errors import ConfigError

TEMPLATES = ("alpaca", "chatml", BASE)  # as they are typed, beside files
BY_HEADINGS = Alpaca(END_OF_TEXT)  # what is taken where nothing is asked for
CHATML = """\
BEGIN
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + END + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
SIDES = ("lstrip", "rstrip")  # on which a special token may take blanks away
PROBE = Exchange("One?", "", "First.").turns + Exchange("Two?", "", "Second.").turns


def choose_template(typed: str, tokenizer: Tokenizer) -> Template:
    """
    Return the template that was typed.

    Args:
        typed: alpaca, chatml, base, or the path of a .jinja file.
        tokenizer: Of the model to be trained.

    Raises:
        ConfigError: There is none of that name, or it cannot be used; names the turn that shows it.
    """
    if typed == "alpaca":
        return template_of(ALPACA, "", tokenizer)
    if typed == "chatml":
        return checked_template("chatml", _with_tokens(CHATML, tokenizer), tokenizer)
    if typed == BASE:
        text = base_template(tokenizer)
        if text is None:
            raise ConfigError(
                f"--template base must be the tokenizer's own, and {tokenizer.name} has none: no "
                "chat_template. Give alpaca, chatml or a .jinja file."
            )
        return checked_template(f"base ({tokenizer.name})", text, tokenizer)
    if not typed.endswith((".jinja", ".jinja2", ".j2")):
        raise ConfigError(
            f"--template must be alpaca, chatml, base or a .jinja file, got {typed!r}."
        )
    try:
        if Path(typed).is_fifo():  # it would never end
            raise ConfigError(f"--template {typed} is no file but a pipe. Give a file.")
        text = Path(typed).read_text(encoding="utf-8-sig")  # Windows writes a mark before it
    except FileNotFoundError:
        raise ConfigError(f"--template {typed} is not there.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--template {typed} cannot be read: {error}.") from None
    return checked_template(typed, text, tokenizer)


def template_of(name: str, text: str, tokenizer: Tokenizer) -> Template:
    """
    Return the template of a plan or a checkpoint.

    Args:
        name: As it has it.
        text: Its source, where it is a file.
        tokenizer: Of the model.

    Raises:
        ConfigError: No version of the code that is here knows it.
    """
    if name in (ALPACA_1, ALPACA_2, ALPACA):
        begin, end = _begin_and_end(tokenizer) if tokenizer.files else ([], END_OF_TEXT)
        return Alpaca(end, begin, ALPACA if name == ALPACA else ALPACA_2)
    if text and name in (_name(text), name_before(_name(text))):
        return JinjaTemplate(name, text, tokenizer)
    raise ConfigError(f"Template {name} is not known here: it is of a newer version, or damaged.")


def name_of_rows(template: Template, is_anew: bool, has_chats: bool) -> str:
    """
    Return the name of the first version that writes rows as a template does.

    Args:
        template: What writes them.
        is_anew: Whether it `writes_anew` any of them.
        has_chats: Whether there is more than one exchange in any of them.
    """
    if is_anew:
        return template.name
    if isinstance(template, Alpaca):
        return ALPACA_2 if has_chats else ALPACA_1
    return name_before(template.name)


def exchanges_name(template: Template) -> str:
    """Return the name of the first version that writes plain rows of one exchange as a template does."""
    return name_of_rows(template, is_anew=False, has_chats=False)


def names_of(template: Template) -> set[str]:
    """Return the names of a template and of the versions before it."""
    return {name_of_rows(template, *said) for said in ((True, True), (False, True), (False, False))}


def end_ids(template: Template, tokenizer: Tokenizer) -> frozenset[int]:
    """Return the tokens at which an answer ends: the tokenizer's own, and the template's."""
    try:
        answered = template.segments(PROBE[:2])
    except ValueError:  # of a base that is only asked
        answered = []
    learnt = [s.text for s in answered if s.is_special and s.is_learnt]
    found = {tokenizer.special_id(text) for text in learnt[-1:]}
    return tokenizer.end_ids | {token for token in found if token is not None}


def base_template(tokenizer: Tokenizer) -> str | None:
    """
    Return the chat template among a tokenizer's files; None where there is none.

    Raises:
        ConfigError: It is no text, or there are several and none is the default.
    """
    if "chat_template.jinja" in tokenizer.files:
        return decoded(
            tokenizer.files["chat_template.jinja"], f"{tokenizer.name}/chat_template.jinja"
        )
    settings = json.loads(tokenizer.files.get("tokenizer_config.json", b"{}"))
    said: Any = settings.get("chat_template")
    found: Any = said
    if isinstance(said, list):  # several, each with a name
        entries = [entry for entry in said if isinstance(entry, dict)]
        found = {entry.get("name"): entry.get("template") for entry in entries}.get("default")
    if said is None:
        return None
    if isinstance(found, str):
        return found
    raise ConfigError(
        f"Tokenizer {tokenizer.name}/tokenizer_config.json has a chat_template that is neither a "
        "text nor a list with one named default. Change it, or remove it."
    )


def decoded(data: bytes, where: str) -> str:
    """Return the text of a template; raises ConfigError for one that is not in UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"Template {where} is not valid UTF-8 at byte {error.start}. Save it in UTF-8."
        ) from None


def jinja_of(template: Template, tokenizer: Tokenizer) -> str:
    """Return a template in jinja, as transformers applies it."""
    headings = ALPACA_JINJA if template.name == ALPACA else ALPACA_2_JINJA
    return template.text or _with_tokens(headings, tokenizer)


def checked_template(what: str, text: str, tokenizer: Tokenizer) -> JinjaTemplate:
    """
    Return a template in jinja, after it wrote a chat of four turns.

    Args:
        what: How messages call it.
        text: Its source.
        tokenizer: Of the model.

    Raises:
        ConfigError: It cannot be used; names the turn that shows it.
    """
    try:
        template = JinjaTemplate(_name(text), text, tokenizer, what)
        _check(template)
        _refuse_lost_blanks(template, tokenizer)
    except ConfigError:
        raise
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise ConfigError(
            f"Template {what} cannot be used: {reason}. Change it, or give another, as --template chatml."
        ) from None
    return template


def asking_template(what: str, text: str, tokenizer: Tokenizer) -> JinjaTemplate:
    """
    Return a template in jinja to ask a model with, which need not be one to learn from.

    Args:
        what: How messages call it.
        text: Its source.
        tokenizer: Of the model.

    Raises:
        ConfigError: It cannot even write a question.
    """
    try:
        template = JinjaTemplate(_name(text), text, tokenizer, what)
        template.segments(PROBE[:1], asks=True)
    except ConfigError:
        raise
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise ConfigError(
            f"Template {what} cannot write a question: {reason}. Change it."
        ) from None
    return template


def _check(template: Template) -> None:
    """Refuse a template that leaves turns out, or lets the model write the heading of its answer."""
    written = text_of(template.segments(PROBE))
    if missing := [turn.text for turn in PROBE if turn.text not in written]:
        raise ValueError(f"a turn that says {missing[0]!r} is not in the text")
    learnt = "".join(segment.text for segment in template.segments(PROBE[:2]) if segment.is_learnt)
    if heading := learnt.partition(PROBE[1].text)[0].strip():
        raise ValueError(
            f"before the answer of turn 2 (assistant) it writes {heading!r}, and not where "
            "add_generation_prompt is set"
        )


def _refuse_lost_blanks(template: Template, tokenizer: Tokenizer) -> None:
    """Refuse a blank beside a special token that takes it away where the base learnt: here it stays."""
    added = orjson.loads(tokenizer.files.get("tokenizer.json", b"{}")).get("added_tokens", [])
    taking = {(token["content"], side) for token in added for side in SIDES if token.get(side)}
    for before, after in itertools.pairwise(template.segments(PROBE) if taking else []):
        text, side = (after.text, "lstrip") if after.is_special else (before.text, "rstrip")
        is_beside = (before.text[-1:] if after.is_special else after.text[:1]).isspace()
        if is_beside and (text, side) in taking:
            raise ValueError(
                f"it writes a blank beside {text}, which has {side} in the base's tokenizer.json and "
                "takes it away there, and here it stays"
            )


def _name(text: str) -> str:
    return f"{JINJA}{xxhash.xxh3_128_hexdigest(text.encode())[:12]}"


def _with_tokens(text: str, tokenizer: Tokenizer) -> str:
    begin, end = _begin_and_end(tokenizer)
    first = f"{{{{- {''.join(begin)!r} }}}}\n" if begin else ""
    return text.replace("BEGIN\n", first).replace("END", repr(end))


def _begin_and_end(tokenizer: Tokenizer) -> tuple[list[str], str]:
    """Return the special tokens that begin a text and end an answer, as they are spelled."""
    spelled = {token: name for name, token in tokenizer.specials.items()}
    return [spelled[token] for token in tokenizer.begin_ids], tokenizer.end
