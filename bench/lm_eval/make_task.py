"""
    python bench/lm_eval/make_task.py
    python bench/lm_eval/make_task.py --shards shards/mine --max-items 1000

Writes what builtin_qa.yaml asks: a JSON line a question, with its true answer among three of other
questions. EleutherAI's lm-eval then says how often an exported model finds the true one likeliest;
who guesses is right a quarter of the time. The commands are in docs/quality.md.

Both questions and wrong answers come from the shard set's validation rows alone: the model has
trained on none of them, so one that learned its answers by heart gains nothing, and no wrong answer
is likelier for having been trained on. The prompt is the text that training used, byte for byte.

This runs in the project's environment, lm-eval in its own: a file is all they share.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from instruct_core.data.mixed_plan import load_shard_plan
from instruct_core.data.template import Segment, text_of
from instruct_core.data.templates import template_of
from instruct_core.data.tokenizer import load_tokenizer
from instruct_core.errors import ConfigError, MissingError
from instruct_core.storage.store import Store
from launch.console.lines import guarded, say

NUM_WRONG = 3


def validation_rows(store: Store) -> list[list[Segment]]:
    """
    Return the rows of a shard set that no run on it trains on, as they are written.

    Raises:
        MissingError: It is no shard set.
        BadRowError: Its source is no longer what the shards were made from.
    """
    if not store.exists("plan.json"):
        raise MissingError(
            f"{store.url} is no shard set. Make it: "
            "python launch/preprocess.py --source builtin --out shards/builtin"
        )
    plan = load_shard_plan(store)
    template = template_of(plan.template, plan.template_text, load_tokenizer())
    held_out: list[list[Segment]] = []
    for shard in range(plan.num_parts):
        rows = list(plan.rows(shard, template))
        is_val = plan.is_val(shard, [None if row is None else text_of(row) for row in rows])
        held_out += [
            row for row, held in zip(rows, is_val, strict=True) if held and row is not None
        ]
    return held_out


def make_items(
    rows: Sequence[Sequence[Segment]], max_items: int, seed: int
) -> list[dict[str, Any]]:
    """
    Return questions with one true and three wrong answers each, in an order of their own.

    Args:
        rows: Where questions and answers come from.
        max_items: Questions at most.
        seed: The same seed and rows give the same items.

    Raises:
        ConfigError: Too few different answers, or no questions wanted.
    """
    if max_items < 1:
        raise ConfigError(f"--max-items must be at least 1, got {max_items}.")
    draw = random.Random(seed)
    # What leads up to the last answer, and the answer; the end follows it.
    texts = [(text_of(row[:-2]), row[-2].text) for row in rows]
    answers = list(dict.fromkeys(answer for _, answer in texts))
    if len(answers) <= NUM_WRONG:
        raise ConfigError(
            f"{len(answers)} different answers in the validation rows are too few: a question needs "
            f"{NUM_WRONG + 1}. Take a larger shard set."
        )
    items = []
    for prompt, answer in draw.sample(texts, min(max_items, len(texts))):
        choices = draw.sample([other for other in answers if other != answer], NUM_WRONG)
        target = draw.randrange(NUM_WRONG + 1)
        choices.insert(target, answer)
        items.append({"prompt": prompt, "choices": choices, "target": target})
    return items


def main() -> int:
    flags = argparse.ArgumentParser(description="Write the questions of builtin_qa.yaml.")
    flags.add_argument("--shards", default="shards/builtin", help="Path or URL of a shard set.")
    flags.add_argument("--out", type=Path, default=Path("build/lm_eval/builtin_qa.jsonl"))
    flags.add_argument("--max-items", type=int, default=500)
    flags.add_argument("--seed", type=int, default=1337)
    typed = flags.parse_args()
    items = make_items(validation_rows(Store(typed.shards)), typed.max_items, typed.seed)
    typed.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in items]
    typed.out.write_text("".join(lines), encoding="utf-8")
    say(f"{len(items)} questions from the validation rows of {typed.shards} are in {typed.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
