"""Chat templates that bases bring: tools, thoughts that go, and those that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from instruct_core.data.model_template import template_of_model
from instruct_core.data.templates import choose_template, end_ids
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.data.turns import Turn
from instruct_core.errors import ConfigError
from tests.instruct_core.data.test_templates import CHAT, CHATML, MESSAGES
from tests.small_tokenizers import write_byte_level

# As Qwen3's: an answer begins with what was thought, which goes as soon as another question follows.
THINKS = """\
{%- set last = namespace(user=0) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
{%- set said = message.content.split('</think>')[-1].lstrip('\\n') %}
{%- if message.role == 'assistant' and loop.index0 > last.user %}
{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + said + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + said + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def test_tools_are_given_to_the_template_that_writes_them_and_no_other_takes_them(
    tmp_path: Path,
) -> None:
    text = (
        "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}"
        + CHATML.partition("{%- endif %}\n")[2]
    )
    base = write_byte_level(tmp_path / "calls", chat_template=text)
    template = choose_template("base", load_tokenizer(str(base)))
    tool = {"type": "function", "function": {"name": "add<|im_end|>"}}
    turns = [Turn("system", "", tools=(tool,)), *CHAT]

    segments = template.segments(turns)

    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(base)
    written = theirs.apply_chat_template(MESSAGES, tools=[tool], tokenize=False)
    assert "".join(segment.text for segment in segments) == written
    assert sum(s.is_special for s in segments) == sum(s.is_special for s in template.segments(CHAT))
    for typed in ("alpaca", "chatml"):
        with pytest.raises(ValueError, match="tools are filled, and are not read by this template"):
            choose_template(typed, load_tokenizer()).segments(turns)


def test_base_whose_thoughts_go_is_asked_with_its_template_and_not_learnt_with_it(
    tmp_path: Path,
) -> None:
    base = write_byte_level(tmp_path, chat_template=THINKS)
    tokenizer = load_tokenizer(str(base))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(base)

    with pytest.raises(
        ConfigError,
        match=r"with turn 3, what follows, the text before it changes: '<think>.*becomes 'First"
        r".*give another, as --template chatml",
    ):
        choose_template("base", tokenizer)
    template = template_of_model(str(base), tokenizer)

    segments = template.segments(CHAT[:3], asks=True)
    expected = theirs.apply_chat_template(MESSAGES[:3], tokenize=False, add_generation_prompt=True)
    assert "".join(segment.text for segment in segments) == expected
    assert end_ids(template, tokenizer) == {tokenizer.special_id("<|im_end|>")}
    assert choose_template("chatml", tokenizer).segments(CHAT[:3], asks=True) == segments


def test_base_whose_template_cannot_write_a_question_is_refused_when_it_is_asked(
    tmp_path: Path,
) -> None:
    base = write_byte_level(tmp_path, chat_template="{{ raise_exception('No.') }}")

    with pytest.raises(ConfigError, match=r"cannot write a question: it stops at turn 1 .*: No"):
        template_of_model(str(base), load_tokenizer(str(base)))


@pytest.mark.parametrize(
    "settings",
    [5, {"default": CHATML}, ["default"], [{"name": "tool_use", "template": CHATML}], [{}], False],
)
def test_chat_template_of_another_shape_is_refused(tmp_path: Path, settings: Any) -> None:
    base = write_byte_level(tmp_path, chat_template=settings)
    tokenizer = load_tokenizer(str(base))

    for uses in (
        lambda: choose_template("base", tokenizer),
        lambda: template_of_model(str(base), tokenizer),
    ):
        with pytest.raises(ConfigError, match="chat_template that is neither a text nor a list"):
            uses()


def test_chat_template_in_another_encoding_is_refused(tmp_path: Path) -> None:
    base = write_byte_level(tmp_path)
    (base / "chat_template.jinja").write_bytes(CHATML.encode("utf-16"))
    tokenizer = load_tokenizer(str(base))

    for uses in (
        lambda: choose_template("base", tokenizer),
        lambda: template_of_model(str(base), tokenizer),
    ):
        with pytest.raises(ConfigError, match=r"chat_template.jinja is not valid UTF-8 at byte 0"):
            uses()
