"""GPT-2's own tokenizer is known in a folder of a base, however that is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from instruct_core.data.fast_tokenizer import gpt2_as_json
from instruct_core.data.gpt2_tokenizer import TOKENIZER_NAME
from instruct_core.data.tokenizer import load_tokenizer

BYTE_LEVEL = {
    "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True
}  # fmt: skip
# As transformers 5 saves it.
ADDS_NOTHING: dict[str, Any] = {
    "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}  # fmt: skip


def write(folder: Path, document: dict[str, Any]) -> None:
    """Write a folder of GPT-2's tokenizer as a base has it."""
    document["added_tokens"] = [
        {"id": 50256, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": True, "special": True}
    ]  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')


@pytest.mark.parametrize("processor", [BYTE_LEVEL, ADDS_NOTHING, None])
def test_gpt2s_own_files_are_gpt2s_tokenizer(
    tmp_path: Path, processor: dict[str, Any] | None
) -> None:
    document = json.loads(gpt2_as_json()) | {"post_processor": processor}
    write(tmp_path, document)

    assert load_tokenizer(str(tmp_path)).identity == TOKENIZER_NAME

    document["added_tokens"][0] |= {"id": 50257, "content": "<|pad|>"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert load_tokenizer(str(tmp_path)).identity != TOKENIZER_NAME


def test_gpt2s_files_with_a_template_beside_them_keep_it(tmp_path: Path) -> None:
    document = json.loads(gpt2_as_json()) | {"post_processor": ADDS_NOTHING}
    write(tmp_path, document)
    assert not load_tokenizer(str(tmp_path)).files

    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")

    assert "chat_template.jinja" in load_tokenizer(str(tmp_path)).files
