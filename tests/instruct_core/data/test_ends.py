"""An answer ends where the template ends it, here and in an exported model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instruct_core.config import PRESETS
from instruct_core.data.encoding import encode
from instruct_core.data.templates import choose_template, end_ids
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.model.hugging_face import tokenizer_files
from tests.instruct_core.data.test_templates import CHAT, CHATML
from tests.small_tokenizers import write_byte_level


def test_answer_ends_at_the_token_of_the_template_too(tmp_path: Path) -> None:
    place = write_byte_level(tmp_path, end="<|endoftext|>", chat_template=CHATML)
    tokenizer = load_tokenizer(str(place))
    template = choose_template("base", tokenizer)

    ends = end_ids(template, tokenizer)

    assert ends == {tokenizer.special_id("<|endoftext|>"), tokenizer.special_id("<|im_end|>")}
    exported = json.loads(tokenizer_files(str(place), PRESETS["tiny"])["generation_config.json"])
    assert exported["eos_token_id"] == [tokenizer.end_id, *(ends - {tokenizer.end_id})]
    rows = encode([template.segments(CHAT)], tokenizer)
    assert [rows.tokens[last - 1] for _, last in rows.spans] == [
        tokenizer.special_id("<|im_end|>")
    ] * 2


@pytest.mark.parametrize("said", [{}, {"eos_token_id": None}, {"eos_token_id": 0}])
def test_exported_model_ends_where_its_tokenizer_does_whatever_the_base_says(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    place = write_byte_level(tmp_path, chat_template=CHATML)
    (place / "generation_config.json").write_text(json.dumps({"do_sample": True, **said}))

    exported = json.loads(tokenizer_files(str(place), PRESETS["tiny"])["generation_config.json"])

    tokenizer = load_tokenizer(str(place))
    ends = exported["eos_token_id"]
    assert exported["do_sample"] is True
    assert set(ends if isinstance(ends, list) else [ends]) == tokenizer.end_ids
