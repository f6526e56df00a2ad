"""
What is evaluated, what it is compared with, on which rows, and where the report goes.

    subject = find_subject(flags)
    base = find_base(flags, subject)
"""

from __future__ import annotations

from typing import NamedTuple

from instruct_core.checkpoints.steps import step_name
from instruct_core.config import TrainConfig
from instruct_core.data.set_manifest import ShardManifest, load_manifest
from instruct_core.errors import ConfigError, CorruptFileError, RunConflictError
from instruct_core.storage.documents import load_document
from instruct_core.storage.store import Store
from jobs.environment import loading
from launch.console.lines import note
from launch.evaluation.page import JSON
from launch.flags.evaluate import Evaluate
from launch.runs.hub import model_place
from launch.runs.places import absolute, check_folder, check_url, reachable
from launch.runs.run import Run
from launch.runs.tokenizers import same_tokenizer


class Subject(NamedTuple):
    """The model to evaluate, and the run it is a step of, if it is one's."""

    place: str
    run: Run | None = None
    step: int | None = None

    @property
    def config(self) -> TrainConfig | None:
        """What it was trained with, if that is known."""
        return self.run.config if self.run is not None else None


def find_subject(flags: Evaluate) -> Subject:
    model = flags.model
    if model.checkpoint is None:
        run = Run.find(model.run, model.checkpoints, model.runs)
        step = run.good_step(model.step, note)
        return Subject(run.step_place(step), run, step)
    place = absolute(model_place("--checkpoint", model.checkpoint)).rstrip("/")
    with reachable("--checkpoint", model.checkpoint):
        of_step = Run.of_step(place)
        if of_step is None:
            with loading():
                from instruct_core.model.weight_files import refuse_no_model
            refuse_no_model(place)
            return Subject(place)
    return Subject(place, of_step.kept_in(model.runs), int(place.rpartition("-")[2]))


def _not_told(flag: str, flags: Evaluate, what: str) -> ConfigError:
    return ConfigError(
        f"{flag} must be given with --checkpoint {flags.model.checkpoint}: no run.json beside it says "
        f"{what}"
    )


def find_base(flags: Evaluate, subject: Subject) -> str:
    if flags.base:
        is_random = flags.base == "random"
        return flags.base if is_random else absolute(model_place("--base", flags.base))
    if subject.config is None:
        raise _not_told(
            "--base", flags, "what it was trained from. Give a Hugging Face folder or id, a step folder "
            "of a run, a .pt file, or random.",
        )  # fmt: skip
    return subject.config.init


def find_shards(flags: Evaluate, subject: Subject) -> tuple[str, ShardManifest]:
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
    found = manifest.fingerprint
    if not flags.shards and config is not None and found != config.data_fingerprint:
        raise RunConflictError(
            f"Shards {shards} are not those the run {config.run} was trained on: fingerprint "
            f"{found[:12]}, expected {config.data_fingerprint[:12]}. Rows that it was trained on may "
            "be among those to validate now. Give the old ones, or these on purpose: --shards PLACE"
        )
    same_tokenizer(subject.place, f"model {subject.place}", shards, manifest.tokenizer)
    return shards, manifest


def find_out(flags: Evaluate, subject: Subject) -> Store:
    if flags.out:
        place = absolute(flags.out)
    elif subject.run is not None and subject.step is not None:
        place = str(subject.run.job_parent.with_name(f"evaluation-{step_name(subject.step)}"))
    else:
        raise _not_told("--out", flags, "where a report would go. Give a folder.")
    out = Store(place)
    if out.is_local:
        check_folder("--out", place, out.local_path(""), num_bytes=0)
    check_url("--out", place, writes=True)
    names = set(out.contents())
    if names and not (JSON in names and _is_ours(out)):
        raise ConfigError(
            f"--out {place} is in use: it is not empty, and there is no {JSON} of this command in it. "
            "Give another folder: nothing else is overwritten."
        )
    return out


def _is_ours(out: Store) -> bool:
    """Return True if the report.json of a folder is of this command, of any version."""
    try:
        return "data_fingerprint" in load_document(out, JSON)
    except CorruptFileError:
        return False
