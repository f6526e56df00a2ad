"""
Load two models, measure both on the same rows, write the report: what launch/evaluate.py does.

    exit_code = evaluate(Evaluate(run="my-run"))

Everything that can be wrong is found before anything is measured, and everything is measured
before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from instruct_core.config import PRESETS, TrainConfig
from instruct_core.data.lost_tokens import fate_of, learns_nothing
from instruct_core.data.packing import Packing, pack
from instruct_core.data.set_manifest import ShardManifest
from instruct_core.data.shards import ShardSet
from instruct_core.errors import ConfigError, MissingError
from instruct_core.shape import trained_said, usable_positions, with_vocabulary
from instruct_core.storage.store import Store
from jobs.environment import loading
from launch.cluster.machine import set_up_torch
from launch.console.display import progress_bar
from launch.console.lines import note, say
from launch.evaluation.page import FILES, documents
from launch.evaluation.result import CURVES, Report, Sample, Scores, print_summary
from launch.evaluation.subject import Subject, find_base, find_out, find_shards, find_subject
from launch.flags.evaluate import Evaluate
from launch.flags.parse import check_counts
from launch.flags.run import check_model_flags
from launch.runs.curves import read_curves
from launch.runs.places import reachable

if TYPE_CHECKING:
    from instruct_core.evaluation.perplexity import SplitLosses
    from instruct_core.evaluation.score import AnswerScores, Example
    from instruct_core.model.family import Model

VERSIONS = ("instruct-cluster", "torch", "numpy", "rouge-score")


class Data(NamedTuple):
    """What both models are measured on."""

    shards: str
    fingerprint: str
    rows: ShardSet
    packing: Packing
    examples: list[Example]


class Measured(NamedTuple):
    """What was found of one model."""

    losses: SplitLosses
    scores: AnswerScores
    answers: list[str]


def evaluate(flags: Evaluate) -> int:
    """Compare a model with its base and write the report; return the exit code."""
    set_up_torch()
    check_counts(flags, "rows", "max_new_tokens")
    check_model_flags(flags.model)
    subject = find_subject(flags)
    base = find_base(flags, subject)
    shards, manifest = find_shards(flags, subject)
    out = find_out(flags, subject)
    with loading():
        from jobs.gpu_memory import advice_of_a_command, gpu_holds
    advice = advice_of_a_command(flags.model.weights)
    with gpu_holds("both models", advice):
        after, before, base_words = _load_models(flags, subject, base)
    data = _prepare(flags, subject, shards, manifest, [before, after])
    say(f"Evaluating {subject.place} and what it was trained from, {base_words}, on {shards}")
    with gpu_holds("both models and their answers", advice):
        was = _measure("before", before, data, flags.max_new_tokens)
        now = _measure("after", after, data, flags.max_new_tokens)
    report = _report(flags, subject, base_words, data, was, now)
    _write(report, out)
    print_summary(report)
    say(f"Report: {out.where('report.html')}")
    return 0


def _load_models(flags: Evaluate, subject: Subject, base: str) -> tuple[Model, Model, str]:
    """Return the model, its base, and the base in words."""
    with loading():
        from instruct_core.evaluation.score import BATCH_SIZE
        from instruct_core.model.weights import first_model, load_model, ready

    kept = flags.model.weights
    after, config = load_model(subject.place, BATCH_SIZE, kept), subject.config
    if base != "random":
        try:
            return after, load_model(base, BATCH_SIZE, kept), base
        except MissingError as error:
            if flags.base:
                raise
            raise MissingError(
                f"Base {base}, which the run was trained from, is not there. Say where it is now: "
                "--base PLACE"
            ) from error
    size = after.config.vocab_size
    shapes = {name: with_vocabulary(shape, size) for name, shape in PRESETS.items()}
    preset = next((name for name, shape in shapes.items() if shape == after.config), None)
    if preset is None:
        raise ConfigError(
            f"--base random needs a model of a known shape ({', '.join(PRESETS)}), and "
            f"{subject.place} has none of them. Give the weights it was trained from: --base PLACE"
        )
    seed = config.seed if config else TrainConfig.seed
    before = ready(first_model(base, preset, seed, vocab_size=size), BATCH_SIZE, kept)
    return after, before, f"random weights of {preset}, seed {seed}"


def _prepare(
    flags: Evaluate,
    subject: Subject,
    shards: str,
    manifest: ShardManifest,
    models: Sequence[Model],
) -> Data:
    """Return the rows, packed as the run packs them where both models have the positions."""
    from instruct_core.evaluation.score import drawn_examples

    rows = ShardSet(Store(shards), "val", manifest)
    if not len(rows):
        raise ConfigError(f"Shards {shards} have no row to validate. Give others: --shards PLACE")
    positions = min(usable_positions(model.config) for model in models)
    examples = drawn_examples(rows, flags.rows, positions)
    if not examples:
        raise ConfigError(
            f"--rows must reach a prompt that leaves room to answer in {positions} tokens, got "
            f"{flags.rows}: none of those that were drawn does. Give more, or other --shards."
        )
    config = subject.config
    seq_len = min(positions, config.seq_len if config else TrainConfig.seq_len)
    # Not through the cache beside the shards: it may belong to somebody else, and this is quick.
    seed = config.seed if config else TrainConfig.seed
    packing = pack(rows.lengths(), seq_len, seed, rows.long_rows)
    if learns_nothing(rows, packing, "response"):
        raise ConfigError(
            f"Shards {shards} have no answer to measure in {seq_len} tokens: every row to validate is "
            f"{fate_of(rows)}. Give others: --shards PLACE"
        )
    for model in models:
        if limit := trained_said(model.config):
            note(
                f"The model was {limit}: rows are read in pieces of {seq_len:,} tokens, and a question "
                f"with its answer has {positions:,} at most"
            )
            break
    return Data(shards, manifest.fingerprint, rows, packing, examples)


def _measure(when: str, model: Model, data: Data, max_new_tokens: int) -> Measured:
    from instruct_core.evaluation.perplexity import split_losses
    from instruct_core.evaluation.score import greedy_answers, score

    with progress_bar(f"Loss {when}") as bar:
        done = bar.add_task("", total=data.packing.num_sequences)
        losses = split_losses(
            model, data.rows, data.packing, lambda count: bar.advance(done, count)
        )
    with progress_bar(f"Answers {when}") as bar:
        given = bar.add_task("", total=len(data.examples))
        answers = greedy_answers(
            model,
            data.examples,
            data.rows.tokenizer,
            data.rows.template,
            max_new_tokens,
            lambda: bar.advance(given),
        )
    return Measured(losses, score(answers, [e.reference for e in data.examples]), answers)


def _report(
    flags: Evaluate, subject: Subject, base: str, data: Data, was: Measured, now: Measured
) -> Report:
    run, losses = subject.run, now.losses
    return Report(
        run=run.name if run else None,
        step=subject.step,
        model=subject.place,
        base=base,
        shards=data.shards,
        data_fingerprint=data.fingerprint,
        val_rows=len(data.rows),
        num_tokens=losses.all.num_tokens,
        num_response_tokens=losses.response.num_tokens,
        seq_len=data.packing.seq_len,
        num_answered=len(data.examples),
        num_left_out=min(flags.rows, len(data.rows)) - len(data.examples),
        max_new_tokens=flags.max_new_tokens,
        before=_scores(was),
        after=_scores(now),
        versions={name: version(name) for name in VERSIONS},
        curves=read_curves(run.ledger, CURVES).curves if run else {},
        samples=[
            Sample(example.prompt_text, example.reference, before, after)
            for example, before, after in zip(data.examples, was.answers, now.answers, strict=True)
        ],
        weights=flags.model.weights,
    )


def _scores(measured: Measured) -> Scores:
    whole, response = measured.losses
    exact_match, rouge_l = measured.scores
    return Scores(
        whole.mean, whole.perplexity, response.mean, response.perplexity, exact_match, rouge_l
    )


def _write(report: Report, out: Store) -> None:
    files = documents(report)
    with reachable("--out", out.url):
        for name in FILES:
            if name in files:
                out.replace(name, files[name])
            else:
                out.remove(name)
