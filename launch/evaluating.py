"""
What stands behind launch/evaluate.py: find two models and the rows, measure, write the report.

    exit_code = evaluate(Evaluate(run="my-run"))

Everything that can be wrong is found before anything is measured, and everything is measured
before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from instruct_core.config import PRESETS, TrainConfig
from instruct_core.data.packing import Packing, pack
from instruct_core.data.shards import ShardSet, load_manifest
from instruct_core.errors import ConfigError, MissingError, RunConflictError
from instruct_core.storage.steps import STEP_FOLDER, step_name
from instruct_core.storage.store import Store
from launch.console.display import progress_bar
from launch.console.lines import say
from launch.flags.evaluate import Evaluate
from launch.flags.parse import check_counts, check_name
from launch.report import (
    FILES,
    JSON,
    Report,
    Sample,
    Scores,
    documents,
    print_summary,
    read_curves,
)
from launch.runs.model import check_one_model
from launch.runs.places import absolute, check_folder, check_url, reachable
from launch.runs.run import find_run, job_parent, newest_verified, stored_config

if TYPE_CHECKING:
    from instruct_core.model.answers import AnswerScores, Example
    from instruct_core.model.gpt2 import GPT2
    from instruct_core.train.perplexity import SplitLosses

VERSIONS = ("instruct-cluster", "torch", "numpy", "rouge-score")


class Subject(NamedTuple):
    """The model to evaluate, and the run it is a step of, if it is one's."""

    place: str
    config: TrainConfig | None
    step: int | None


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
    check_counts(flags, "rows", "max_new_tokens")
    subject = _find_subject(flags)
    base = _find_base(flags, subject)
    shards, manifest = _find_shards(flags, subject)
    out = _find_out(flags, subject)
    after, before, base_words = _load_models(flags, subject, base)
    data = _prepare(flags, subject, shards, manifest, [before, after])
    say(f"Evaluating {subject.place} and what it was trained from, {base_words}, on {shards}")
    was = _measure("before", before, data, flags.max_new_tokens)
    now = _measure("after", after, data, flags.max_new_tokens)
    report = _report(flags, subject, base_words, data, was, now)
    _write(report, out)
    print_summary(report)
    say(f"Report: {out.where('report.html')}")
    return 0


def _find_subject(flags: Evaluate) -> Subject:
    check_one_model(flags.run, flags.checkpoint)
    if flags.checkpoint:
        place = absolute(flags.checkpoint)
        parent, _, name = place.rpartition("/")
        match = STEP_FOLDER.fullmatch(name)
        with reachable("--checkpoint", flags.checkpoint):
            config = stored_config(Store(parent)) if match else None
        return Subject(place, config, int(match[1]) if match and config else None)
    if flags.run:
        check_name(flags.run)
    with reachable("--checkpoints", flags.checkpoints):
        store = find_run(flags.run, absolute(flags.checkpoints))
        config = stored_config(store)
        if config is None:
            raise MissingError(
                f"Run {store.url} is not there: no run.json in it. All runs: python launch/status.py"
            )
        place = newest_verified(store)
    return Subject(place, config, int(place.rpartition("-")[2]))


def _not_told(flag: str, flags: Evaluate, what: str) -> ConfigError:
    return ConfigError(
        f"{flag} must be given with --checkpoint {flags.checkpoint}: no run.json beside it says {what}"
    )


def _find_base(flags: Evaluate, subject: Subject) -> str:
    if flags.base:
        return flags.base if flags.base == "random" else absolute(flags.base)
    if subject.config is None:
        raise _not_told(
            "--base", flags, "what it was trained from. Give a Hugging Face folder, a step folder of a "
            "run, a .pt file, or random.",
        )  # fmt: skip
    return subject.config.init


def _find_shards(flags: Evaluate, subject: Subject) -> tuple[str, dict[str, Any]]:
    """Return the place of the shards, and their manifest."""
    config = subject.config
    if flags.shards:
        shards = absolute(flags.shards)
    elif config is not None:
        shards = config.shards
    else:
        raise _not_told("--shards", flags, "what it was trained on.")
    with reachable("--shards", shards):
        manifest = load_manifest(Store(shards))
    found = manifest["fingerprint"]
    if not flags.shards and config is not None and found != config.data_fingerprint:
        raise RunConflictError(
            f"Shards {shards} are not those the run {config.run} was trained on: fingerprint "
            f"{found[:12]}, expected {config.data_fingerprint[:12]}. Rows that it was trained on may "
            "be among those to validate now. Give the old ones, or these on purpose: --shards PLACE"
        )
    return shards, manifest


def _find_out(flags: Evaluate, subject: Subject) -> Store:
    config = subject.config
    if flags.out:
        place = absolute(flags.out)
    elif config is not None and subject.step is not None:
        run = job_parent(_runs(flags, config), config.run).parent
        place = str(run / f"evaluation-{step_name(subject.step)}")
    else:
        raise _not_told("--out", flags, "where a report would go. Give a folder.")
    out = Store(place)
    if out.is_local:
        check_folder("--out", place, out.local_path(""), num_bytes=0)
    check_url("--out", place, writes=True)
    # Without report.json, but nothing foreign in it: a report that was killed while it was written.
    names = {name for name in out.names() if not name.startswith(".")}
    if JSON not in names and names - set(FILES):
        raise ConfigError(
            f"--out {place} is in use: it is not empty, and there is no {JSON} of this command in it. "
            "Give another folder: nothing else is overwritten."
        )
    return out


def _runs(flags: Evaluate, config: TrainConfig) -> str:
    return absolute(flags.runs) if flags.runs else config.runs


def _load_models(flags: Evaluate, subject: Subject, base: str) -> tuple[GPT2, GPT2, str]:
    """Return the model, its base, and the base in words."""
    from instruct_core.model.pretrained import first_model, load_model, ready

    after, config = load_model(subject.place), subject.config
    if base != "random":
        try:
            return after, load_model(base), base
        except MissingError as error:
            if flags.base:
                raise
            raise MissingError(
                f"Base {base}, which the run was trained from, is not there. Say where it is now: "
                "--base PLACE"
            ) from error
    preset = next((name for name, shape in PRESETS.items() if shape == after.config), None)
    if preset is None:
        raise ConfigError(
            f"--base random needs a model of a known shape ({', '.join(PRESETS)}), and "
            f"{subject.place} has none of them. Give the weights it was trained from: --base PLACE"
        )
    seed = config.seed if config else TrainConfig.seed
    return after, ready(first_model(base, preset, seed)), f"random weights of {preset}, seed {seed}"


def _prepare(
    flags: Evaluate,
    subject: Subject,
    shards: str,
    manifest: dict[str, Any],
    models: Sequence[GPT2],
) -> Data:
    """Return the rows, packed as the run packs them where both models have the positions."""
    from instruct_core.model.answers import first_examples

    rows = ShardSet(Store(shards), "val", manifest)
    if not len(rows):
        raise ConfigError(f"Shards {shards} have no row to validate. Give others: --shards PLACE")
    positions = min(model.config.max_seq_len for model in models)
    examples = first_examples(rows, flags.rows, positions)
    if not examples:
        raise ConfigError(
            f"--rows must reach a prompt that leaves room to answer in {positions} tokens, got "
            f"{flags.rows}: none of the first ones does. Give more, or other --shards."
        )
    config = subject.config
    seq_len = min(positions, config.seq_len) if config else positions
    # Not through the cache beside the shards: it may belong to somebody else, and this is quick.
    packing = pack(rows.lengths(), seq_len, config.seed if config else TrainConfig.seed)
    return Data(shards, manifest["fingerprint"], rows, packing, examples)


def _measure(when: str, model: GPT2, data: Data, max_new_tokens: int) -> Measured:
    from instruct_core.model.answers import greedy_answers, score
    from instruct_core.train.perplexity import split_losses

    with progress_bar(f"Loss {when}") as bar:
        done = bar.add_task("", total=data.packing.num_sequences)
        losses = split_losses(
            model, data.rows, data.packing, lambda count: bar.advance(done, count)
        )
    with progress_bar(f"Answers {when}") as bar:
        given = bar.add_task("", total=len(data.examples))
        answers = greedy_answers(
            model, data.examples, max_new_tokens, lambda count: bar.advance(given, count)
        )
    return Measured(losses, score(answers, [e.reference for e in data.examples]), answers)


def _report(
    flags: Evaluate, subject: Subject, base: str, data: Data, was: Measured, now: Measured
) -> Report:
    config, losses = subject.config, now.losses
    return Report(
        run=config.run if config else None,
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
        curves=read_curves(Store(_runs(flags, config)) / config.run) if config else {},
        samples=[
            Sample(example.prompt_text, example.reference, before, after)
            for example, before, after in zip(data.examples, was.answers, now.answers, strict=True)
        ],
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
