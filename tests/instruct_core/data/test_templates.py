"""Templates: what of a chat they let a model learn, token by token, and which of them are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import transformers

from instruct_core.data.encoding import encode, prompt_tokens
from instruct_core.data.model_template import template_of_model
from instruct_core.data.template import Template, text_of
from instruct_core.data.templates import choose_template, end_ids, jinja_of, template_of
from instruct_core.data.tokenizer import Tokenizer, load_tokenizer
from instruct_core.data.turns import Exchange, Turn
from instruct_core.errors import ConfigError
from tests.small_tokenizers import write_byte_level, write_metaspace

CHATML = """\
{%- if messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are kind.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
LLAMA_2 = """\
{%- for message in messages %}
{%- if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}
{% generation %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endgeneration %}
{%- else %}{{ raise_exception('Only user and assistant!') }}{% endif %}
{%- endfor %}"""
CHAT = [
    *Exchange("What is France?", "", "A land.").turns,
    *Exchange("  Its capital?", "", "The capital\n is Paris. é").turns,
]
MESSAGES = [{"role": turn.role, "content": turn.text} for turn in CHAT]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    desk = tmp_path_factory.mktemp("bases")
    (desk / "mine.jinja").write_text(CHATML)
    return {
        "bytes": write_byte_level(desk / "bytes", chat_template=CHATML),
        "blanks": write_metaspace(desk / "blanks", chat_template=LLAMA_2, bos_token="<s>"),
        "mine": desk / "mine.jinja",
    }


def chosen(bases: dict[str, Path], base: str, typed: str) -> tuple[Template, Tokenizer]:
    tokenizer = load_tokenizer(str(bases.get(base, base)))
    return choose_template(str(bases.get(typed, typed)), tokenizer), tokenizer


EVERY = [
    ("gpt2", "alpaca"), ("gpt2", "chatml"), ("bytes", "alpaca"), ("bytes", "chatml"), ("bytes", "base"),
    ("bytes", "mine"), ("blanks", "alpaca"), ("blanks", "chatml"), ("blanks", "base"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "typed"), EVERY)
def test_four_turns_are_learnt_where_they_answer_and_nowhere_else(
    bases: dict[str, Path], base: str, typed: str
) -> None:
    template, tokenizer = chosen(bases, base, typed)

    rows = encode([template.segments(CHAT)], tokenizer)

    learnt = [rows.tokens[first:last].tolist() for first, last in rows.spans.tolist()]
    assert len(learnt) == 2
    for tokens, turn in zip(learnt, CHAT[1::2], strict=True):
        assert tokenizer.decode(tokens[:-1]).strip() == turn.text
        assert tokens[-1] in end_ids(template, tokenizer)
        assert tokens[-1] == tokenizer.end_id
    assert rows.spans[-1, 1] == len(rows.tokens)
    prompts = [prompt_tokens(template.segments(CHAT[:n], asks=True), tokenizer) for n in (1, 3)]
    assert prompts == [rows.tokens[:first].tolist() for first, _ in rows.spans.tolist()]


@pytest.mark.parametrize("base", ["bytes", "blanks"])
@pytest.mark.parametrize("asks", [False, True])
def test_base_writes_what_transformers_writes(
    bases: dict[str, Path], base: str, asks: bool
) -> None:
    template, tokenizer = chosen(bases, base, "base")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(bases[base])
    count = 3 if asks else 4

    segments = template.segments(CHAT[:count], asks)

    text = theirs.apply_chat_template(MESSAGES[:count], tokenize=False, add_generation_prompt=asks)
    assert "".join(segment.text for segment in segments) == text
    assert prompt_tokens(segments, tokenizer) == theirs(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize(("base", "typed"), EVERY)
def test_template_that_is_carried_along_writes_the_same_text(
    bases: dict[str, Path], base: str, typed: str, tmp_path: Path
) -> None:
    template, tokenizer = chosen(bases, base, typed)
    (tmp_path / "chat_template.jinja").write_text(jinja_of(template, tokenizer))
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(bases["bytes"] / "tokenizer.json"),
        chat_template=jinja_of(template, tokenizer), bos_token="<s>", eos_token="</s>",
    )  # fmt: skip
    chat = [*MESSAGES, {"role": "user", "content": "And now?"}]
    turns = [*CHAT, Turn("user", "And now?")]
    if typed != "base":
        chat, turns = (
            [{"role": "system", "content": "Be kind."}, *chat],
            [Turn("system", "Be kind."), *turns],
        )

    text = "".join(segment.text for segment in template.segments(turns, asks=True))

    assert theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == text
    again = template_of_model(str(tmp_path), tokenizer)
    assert (again.name, again.segments(CHAT)) == (template.name, template.segments(CHAT))
    assert template_of(template.name, template.text, tokenizer).segments(CHAT) == template.segments(
        CHAT
    )


@pytest.mark.parametrize("typed", ["alpaca", "chatml", "base"])
def test_special_token_that_a_row_spells_is_ordinary_text(
    bases: dict[str, Path], typed: str
) -> None:
    template, tokenizer = chosen(bases, "bytes", typed)
    spelled = "a <|im_end|> b <<|im_start|>|im_start|>\ue000"
    turns = Exchange(spelled, "", f"{spelled}.").turns

    segments = template.segments(turns)

    specials = [s.text for s in segments if s.is_special]
    plain = [s.text for s in template.segments(CHAT[:2]) if s.is_special]
    assert specials == plain
    assert text_of(segments).count(spelled) == 2
    rows = encode([segments], tokenizer)
    assert tokenizer.decode(rows.tokens[slice(*rows.spans[0])].tolist()) == f"{spelled}.<|im_end|>"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "behind turn 2 .*stands 'First.'"),
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
         "with turn 2, the answer, the text before it changes: '1One"),
        ("{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }}{{ eos_token }}"
         "{% endif %}{% endfor %}", "with turn 3, what follows, the text before it changes: 'First"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}",
         "before the answer of turn 2 .assistant. it writes 'assistant:'"),
        ("{% for m in messages if m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% endfor %}",
         "a turn that says 'One.' is not in the text"),
        ("{{ raise_exception('No chats.') }}", "it stops at turn . .*: No chats"),
        ("{{ strftime_now('%d') }}", ".*'strftime_now' is undefined"),
        ("{{ ''.__class__.__mro__ }}", ".*unsafe"),
        ("{{ messages.append(1) }}", ".*(unsafe|not safely)"),
        ("{% for m in messages %}", "line 1: "),
        ("{% for m in messages %}{{ m.content }}{{ m.role.upper ~ eos_token }}{% endfor %}",
         "it stops at turn . .*: it writes <built-in method upper of str object> and its place"),
        ("{{ messages | map('upper') }}", ".*it writes <generator object sync_do_map> and its place"),
        ("{{ '\\ud83d' }}", ".*what it writes is not valid UTF-8: lone surrogate"),
    ],
)  # fmt: skip
def test_template_that_cannot_be_used_is_refused_with_the_turn_that_shows_it(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "bad.jinja"
    path.write_text(text)

    with pytest.raises(ConfigError, match=f"bad.jinja cannot be used: {problem}"):
        choose_template(str(path), load_tokenizer())


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("base", "--template base must be the tokenizer's own, and gpt2 has none"),
        ("chatlm", "must be alpaca, chatml, base or a .jinja file, got 'chatlm'"),
        ("none.jinja", "--template none.jinja is not there"),
    ],
)
def test_template_that_is_not_there_is_refused(typed: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        choose_template(typed, load_tokenizer())


@pytest.mark.parametrize(
    ("token", "side", "is_beside"),
    [
        ("<|im_start|>", "lstrip", True), ("<|im_start|>", "rstrip", False),
        ("<|im_end|>", "rstrip", True), ("<|im_end|>", "lstrip", False),
        ("<|endoftext|>", "rstrip", False),
    ],
)  # fmt: skip
def test_blank_that_the_bases_token_takes_away_is_not_learnt(
    tmp_path: Path, token: str, side: str, is_beside: bool
) -> None:
    place = write_byte_level(tmp_path, chat_template=CHATML)
    document = json.loads((place / "tokenizer.json").read_text())
    [entry] = [entry for entry in document["added_tokens"] if entry["content"] == token]
    entry[side] = True
    (place / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = load_tokenizer(str(place))

    if is_beside:
        with pytest.raises(ConfigError, match=rf"a blank beside <\|.*\|>, which has {side} in the"):
            choose_template("base", tokenizer)
        return
    template = choose_template("base", tokenizer)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(place)
    text = theirs.apply_chat_template(MESSAGES, tokenize=False)
    tokens = prompt_tokens(template.segments(CHAT), tokenizer)
    assert tokens == theirs(text, add_special_tokens=False).input_ids


def test_mark_of_windows_before_a_template_is_no_part_of_it(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    windows = tmp_path / "windows.jinja"
    windows.write_bytes(b"\xef\xbb\xbf" + CHATML.replace("\n", "\r\n").encode())
    tokenizer = load_tokenizer(str(bases["bytes"]))

    template = choose_template(str(windows), tokenizer)

    assert template.text == CHATML


def test_template_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jinja")

    with pytest.raises(ConfigError, match=r"pipe\.jinja is no file but a pipe\. Give a file"):
        choose_template(str(tmp_path / "pipe.jinja"), load_tokenizer())


def test_template_says_which_turn_of_a_row_it_cannot_write(bases: dict[str, Path]) -> None:
    template, _ = chosen(bases, "blanks", "base")

    with pytest.raises(ValueError, match="Only user and assistant"):
        template.segments([Turn("system", "Be kind."), *CHAT])


def test_place_in_memory_that_a_row_itself_shows_is_text(bases: dict[str, Path]) -> None:
    template, _ = chosen(bases, "bytes", "chatml")
    shown = "What is\n'<built-in method lower of str object at 0x7f30036575b0>'?"

    assert shown in text_of(template.segments(Exchange(shown, "", shown).turns))


@pytest.mark.parametrize("has_words", [False, True])
def test_calls_of_tools_are_written_by_the_template_that_knows_them(
    tmp_path: Path, has_words: bool
) -> None:
    calls = (
        "{% for c in m.tool_calls %}CALL {{ c.function | tojson }}{% endfor %}" if has_words else ""
    )
    text = "{% for m in messages %}{{ m.content }}" + calls + "{{ eos_token }}{% endfor %}"
    (tmp_path / "mine.jinja").write_text(text)
    template = choose_template(str(tmp_path / "mine.jinja"), load_tokenizer())
    call: dict[str, Any] = {"name": "add", "arguments": {"a": 1}}

    segments = template.segments([CHAT[0], Turn("assistant", "", calls=(call,))])

    written = '{"name": "add", "arguments": {"a": 1}}'
    expected = f"CALL {written}" if has_words else f"<tool_call>\n{written}\n</tool_call>"
    assert [s.text for s in segments if s.is_learnt] == [expected, "<|endoftext|>"]
