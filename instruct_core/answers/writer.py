"""
Answers to many questions: one JSONL part for each range of rows, then all parts as one file.

    write_part(store, plan, 3, load_planned_model(plan))     # 00003.jsonl, 00003.json
    if not missing_parts(store, plan):
        join_parts(store, plan, Store("."), "answers.jsonl")

Inside a part, questions of like length are answered side by side, and come out in their order. A
row's random numbers are those of its own index. A part's document is written after it, with its
hash; so a part that is there can be told from one that is right.
"""

from __future__ import annotations

import time

import xxhash

from instruct_core.answers.batch import answer_prompts
from instruct_core.answers.line import line_of
from instruct_core.answers.parts import part_name
from instruct_core.answers.plan import AnswerPlan
from instruct_core.data.encoding import prompt_tokens
from instruct_core.data.templates import template_of
from instruct_core.data.tokenizer import tokenizer_of_model
from instruct_core.errors import ConfigError
from instruct_core.model.family import Model
from instruct_core.model.weights import answering_model, check_kept, hash_weights, load_pretrained
from instruct_core.shape import with_trained
from instruct_core.storage.documents import seal
from instruct_core.storage.store import Store


def load_planned_model(plan: AnswerPlan) -> Model:
    """
    Return the model of a plan.

    Raises:
        ConfigError: Its weights are no longer those that were planned with.
    """
    check_kept(plan.settings.weights)
    shape, weights = load_pretrained(plan.settings.model)
    if hash_weights(weights) != plan.settings.model_xxh3:
        raise ConfigError(
            f"Model {plan.settings.model} has other weights than when the command was given. Bring "
            "the old ones back, or give another --out."
        )
    shape = with_trained(shape, plan.settings.positions)  # as it was begun
    return answering_model(shape, weights, plan.settings.batch_size, plan.settings.weights)


def write_part(store: Store, plan: AnswerPlan, part: int, model: Model) -> None:
    """Answer one range of rows, and write its lines and then its document."""
    started_at = time.perf_counter()
    settings = plan.settings
    tokenizer = tokenizer_of_model(settings.model)
    template = template_of(plan.template, plan.template_text, tokenizer)
    records, questions = zip(*plan.questions(part, template), strict=True)
    answers = answer_prompts(
        model,
        [prompt_tokens(segments, tokenizer) for segments in questions],
        tokenizer,
        template,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        sampling=settings.sampling,
        first_stream=part * plan.rows_per_part,
    )
    lines = [
        line_of(record, answer, settings.answer_column)
        for record, answer in zip(records, answers, strict=True)
    ]
    data = "".join(lines).encode()
    store.replace(part_name(part, "jsonl"), data)
    document = {
        "fingerprint": plan.fingerprint,
        "part": part,
        "rows": len(lines),
        "new_tokens": sum(answer.num_new_tokens for answer in answers),
        "seconds": round(time.perf_counter() - started_at, 3),
        "bytes": len(data),
        "lines_xxh3": xxhash.xxh3_128_hexdigest(data),
    }
    store.replace(part_name(part, "json"), seal(document))
