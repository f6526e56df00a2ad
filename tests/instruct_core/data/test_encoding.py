"""Which tokens of a chat are learnt, token by token."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from instruct_core.data import encoding
from instruct_core.data.batches import IGNORED, SampleReader
from instruct_core.data.encoding import encode, prompt_tokens
from instruct_core.data.fast_tokenizer import choose_tokenizer
from instruct_core.data.gpt2_tokenizer import END_OF_TEXT_ID
from instruct_core.data.packing import pack
from instruct_core.data.shard_plan import ShardPlan, scan
from instruct_core.data.shards import ShardSet, write_manifest, write_shard
from instruct_core.data.sources import Source
from instruct_core.data.templates import BY_HEADINGS
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.data.turns import Turn
from instruct_core.storage.store import Store

TOKENIZER = load_tokenizer()
CHAT = [
    Turn("system", "Be kind."),
    Turn("user", "One, é?"),
    Turn("assistant", "Un <|endoftext|> é."),
    Turn("user", "Two?"),
    Turn("assistant", "Hm.", learnt=False),
    Turn("user", "Three?"),
    Turn("assistant", "", calls=({"name": "add", "arguments": {}},)),
    Turn("tool", "3"),
    Turn("assistant", "Trois."),
]


def write_set(folder: Path, *rows: object) -> tuple[Store, ShardPlan]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = scan(Source("rows", "rows", [str(path)]), None, None, skip_bad_rows=False)
    store = Store(folder / "set")
    plan.save(store)
    write_shard(store, plan, 0, choose_tokenizer("tiktoken"))
    assert write_manifest(store, plan)
    return store, plan


def messages(*texts: str) -> dict[str, object]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": t} for n, t in enumerate(texts)]}


def test_every_answer_of_a_chat_is_learnt_and_ended_and_nothing_else() -> None:
    rows = encode([BY_HEADINGS.segments(CHAT)], TOKENIZER)

    learnt = [TOKENIZER.decode(rows.tokens[a:b].tolist()) for a, b in rows.spans.tolist()]

    assert learnt == [
        "Un <|endoftext|> é.<|endoftext|>",
        '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call><|endoftext|>',
        "Trois.<|endoftext|>",
    ]
    assert [rows.tokens[last - 1] for _, last in rows.spans.tolist()] == [END_OF_TEXT_ID] * 3
    # The one in a row's own text is spelled out, and ends nothing; an answer that is shown ends too.
    assert (rows.tokens == END_OF_TEXT_ID).sum() == 4
    assert rows.spans[-1, 1] == len(rows.tokens) == rows.offsets[-1]


def test_prompt_of_each_answer_is_the_beginning_of_the_row() -> None:
    rows = encode([BY_HEADINGS.segments(CHAT)], TOKENIZER)
    learnt = [place for place, turn in enumerate(CHAT) if turn.role == "assistant" and turn.learnt]

    prompts = [prompt_tokens(BY_HEADINGS.segments(CHAT[:n], asks=True), TOKENIZER) for n in learnt]

    assert prompts == [rows.tokens[:first].tolist() for first, _ in rows.spans.tolist()]


@pytest.mark.parametrize("chars_at_once", [1, encoding.ENCODE_CHARS])
def test_rows_keep_their_spans_apart(chars_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "ENCODE_CHARS", chars_at_once)
    chats = [CHAT[1:3], CHAT, CHAT[3:6] + CHAT[8:], [Turn("user", "a"), Turn("assistant", "b")]]
    alone = [encode([BY_HEADINGS.segments(chat)], TOKENIZER) for chat in chats]

    together = encode([BY_HEADINGS.segments(chat) for chat in chats], TOKENIZER)

    for row, one in enumerate(alone):
        first, last = together.span_offsets[row : row + 2]
        assert np.array_equal(together.spans[first:last], one.spans)
        begin, end = together.offsets[row : row + 2]
        assert np.array_equal(together.tokens[begin:end], one.tokens)


def test_loss_on_responses_counts_every_answer_of_a_chat(tmp_path: Path) -> None:
    chat = messages("One?", "Un.", "Two?", "Deux, deux.", "Three?", "Trois.", "Four?", "Quatre.")
    store, plan = write_set(tmp_path, chat, *(messages(f"{n}?", f"{n}.") for n in range(30)))
    assert plan.format == 3
    rows = ShardSet(store, "train" if len(ShardSet(store, "train").spans(0)) > 1 else "val")

    for seq_len in (16, 256):
        packing = pack(rows.lengths(), seq_len, seed=1)
        reader = SampleReader(rows, packing, "response")
        batch = reader.micro_batch(np.arange(len(reader), dtype=np.uint64))

        expected = sorted(
            int(token)
            for row in range(len(rows))
            for first, last in rows.spans(row).tolist()
            for token in rows.tokens(row, first, last - first)
        )
        assert sorted(batch.targets[batch.targets != IGNORED].tolist()) == expected
    learnt = [rows.tokens(0, a, b - a).tolist() for a, b in rows.spans(0).tolist()]
    assert [TOKENIZER.decode(tokens) for tokens in learnt] == [
        f"{answer}<|endoftext|>" for answer in ("Un.", "Deux, deux.", "Trois.", "Quatre.")
    ]


def test_rows_of_one_exchange_stay_in_the_format_they_had(tmp_path: Path) -> None:
    pairs = [{"instruction": f"Say {n}.", "input": "", "output": f"{n}."} for n in range(30)]

    store, plan = write_set(tmp_path, *pairs)

    assert (plan.format, plan.template) == (2, "alpaca-headings-1")
    assert plan.to_document().keys() & {"template_text", "num_open_ends"} == set()
    rows = ShardSet(store, "train")
    for row in range(len(rows)):
        [(first, last)] = rows.spans(row).tolist()
        assert last == rows.lengths()[row]
        assert TOKENIZER.decode(rows.tokens(row, 0, first).tolist()).endswith("### Response:\n")
