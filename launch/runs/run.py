"""
A run: found by its name, it knows its settings, its ledger, its jobs and its newest good step.

    run = Run.find("my-run", "checkpoints_instruct")
    run.config.max_steps, run.newest_good_step(on_damage=note)
    run.good_step("best", on_damage=note)             # or "newest", or the number of one
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from instruct_core.checkpoints.steps import (
    STEP_FOLDER,
    committed_steps,
    damage_seen_twice,
    read_manifest,
    step_name,
)
from instruct_core.config import TrainConfig, from_json
from instruct_core.errors import CorruptFileError, MissingError
from instruct_core.names import PLAIN_NAME
from instruct_core.storage.documents import load_document
from instruct_core.storage.patience import on_a_disk
from instruct_core.storage.store import Store
from jobs.control import last_step, requests_in
from launch.cluster.job_folder import folder_of_url
from launch.console.lines import perhaps
from launch.flags.parse import check_name
from launch.runs.asked import asked_in
from launch.runs.best import best_first
from launch.runs.moved import moved
from launch.runs.places import absolute, check_looked_in, reachable
from launch.runs.typed_runs import refuse_foreign
from launch.runs.unfinished import refuse_unfinished


@dataclass(frozen=True)
class Run:
    """
    A run, whether it has begun or not.

    Args:
        name: Of its folder.
        store: Of its checkpoints.
        runs: Where its ledger and its curves are, if not where its settings say.
    """

    name: str
    store: Store
    runs: str = ""

    @classmethod
    def named(cls, name: str, checkpoints: str) -> Run:
        """Return the run of a name, which need not be there; raises ConfigError for no plain name."""
        check_name(name, "RUN")
        return cls(name, Store(absolute(checkpoints)) / name)

    @classmethod
    def find(cls, name: str | None, checkpoints: str, runs: str | None = None) -> Run:
        """
        Return the run of a name; the one that saved last where none is given.

        Args:
            name: Of the run.
            checkpoints: Where runs keep their checkpoints.
            runs: Where they keep their ledgers, if not where their settings say.

        Raises:
            ConfigError: The name is no plain one, or a place cannot be reached or has nothing of it.
            MissingError: There is no such run; names those that are there.
        """
        if name is None:
            return cls.latest(checkpoints).kept_in(runs)
        run = cls.named(name, checkpoints)
        with reachable("--checkpoints", checkpoints):
            if not run.exists():
                raise run._missing()
        return run.kept_in(runs)

    def kept_in(self, runs: str | None) -> Run:
        """Return it with its ledger where somebody says; raises ConfigError for a place without it."""
        if runs is None:
            return self
        run = replace(self, runs=absolute(runs))
        run.refuse_foreign()
        return run

    def refuse_foreign(self) -> None:
        """Refuse a typed place of its ledger that has nothing of it; raises ConfigError."""
        if self.runs:
            refuse_foreign(self.name, self.runs, self.ledger, self.job_parent)

    @classmethod
    def latest(cls, checkpoints: str) -> Run:
        """Return the run that saved last, by the manifests' own words; raises MissingError."""
        with reachable("--checkpoints", checkpoints):
            saved = [(run._saved_at(), run) for run in runs_in(checkpoints)]
        saved_at, newest = max(saved, key=lambda entry: entry[0], default=(0.0, None))
        if newest is None or not saved_at:
            raise MissingError(
                f"No run in {absolute(checkpoints)} has saved yet. Train one: "
                "python launch/finetune.py, or name a model: --checkpoint PATH"
            )
        return newest

    @classmethod
    def of_step(cls, place: str) -> Run | None:
        """Return the run that a step folder is part of; None for a place that is no run's step."""
        parent, _, folder = absolute(place).rstrip("/").rpartition("/")
        run = cls(parent.rpartition("/")[2], Store(parent or "/"))
        return run if STEP_FOLDER.fullmatch(folder) and run.exists() else None

    def exists(self) -> bool:
        """
        Return True if a launcher has written its settings down.

        Raises:
            ConfigError: Its removal, or its renaming, has begun and not ended.
        """
        if self.store.exists("run.json"):
            return True
        refuse_unfinished(self.name, self.store)
        return False

    def has_begun(self) -> bool:
        """Return True if it has saved: until then every setting may change."""
        return self.store.exists("committed.json") or bool(committed_steps(self.store))

    @cached_property
    def document(self) -> dict[str, Any]:
        """Its run.json, read once; raises MissingError, CorruptFileError."""
        try:
            return load_document(self.store, "run.json")
        except FileNotFoundError:
            raise self._missing() from None

    @cached_property
    def asked(self) -> dict[str, Any]:
        """What it asked the cluster for, see asked.py; raises as `document` does."""
        return asked_in(self.document, self.store.where("run.json"))

    @cached_property
    def config(self) -> TrainConfig:
        """The settings it was begun with, where it lies now; raises as `document` does."""
        stored = from_json(self.document.get("config"), self.store.where("run.json"))
        stored = replace(stored, max_steps=last_step(requests_in(self.store), stored.max_steps))
        return moved(stored, self.checkpoints)

    @property
    def checkpoints(self) -> str:
        """Place of its store, and of other runs'."""
        return self.store.url.rpartition("/")[0]

    @cached_property
    def ledger(self) -> Store:
        """Its events, and its curves beside them."""
        return Store(self._runs) / self.name

    @cached_property
    def job_parent(self) -> Path:
        """Where its jobs have their folders: beside its ledger if that is on a disk."""
        if "://" not in self._runs:
            return Path(self._runs) / self.name / "job"
        folder = Path(absolute("runs_instruct")) / self.name
        return folder_of_url(folder, f"{self._runs}/{self.name}", "job/lock") / "job"

    @cached_property
    def lock(self) -> Path:
        """The lock of its one writer: beside its checkpoints if they are on a disk."""
        if self.store.is_local:
            return self.store.local_path("lock")
        return self.job_parent / "lock"

    @property
    def slurm_note(self) -> Path:
        """The file that names its job on Slurm: beside its lock."""
        return self.lock.with_name("slurm.json")

    def forget_slurm(self) -> None:
        """Remove the note of an earlier job on Slurm, which has ended."""
        note = self.slurm_note
        on_a_disk(note, lambda: note.unlink(missing_ok=True))

    def newest_good_step(self, on_damage: Callable[[str], None]) -> int:
        """
        Return its newest step of which every byte is right.

        Args:
            on_damage: Given a line about every newer one that is damaged.

        Raises:
            ConfigError: The place cannot be reached.
            MissingError: It has no such step.
        """
        with reachable("--checkpoints", self.checkpoints):
            for step in reversed(committed_steps(self.store)):
                if not (damage := damage_seen_twice(self.store, step)):
                    return step
                on_damage(f"{damage} Taking the one before.")
        raise MissingError(
            f"Run {self.name} has no checkpoint that can be loaded yet, in {self.store.url}."
        )

    def good_step(
        self, wanted: str | int, on_damage: Callable[[str], None], typed: str = "--step "
    ) -> int:
        """
        Return a step of which every byte is right.

        Args:
            wanted: "newest", "best" by validation loss, or the number of one.
            on_damage: Given a line about every newer or better one that is damaged.
            typed: What stood before the word that was typed, for messages.

        Raises:
            ConfigError: The place cannot be reached.
            MissingError: It has no such step; names those that it has.
            CorruptFileError: The one with this number is damaged.
        """
        if wanted == "newest":
            return self.newest_good_step(on_damage)
        if wanted == "best":
            return self._best_good_step(on_damage, typed)
        step = self.known_step(int(wanted), typed)
        with reachable("--checkpoints", self.checkpoints):
            if damage := damage_seen_twice(self.store, step):
                raise CorruptFileError(f"{damage} Take another of its steps: {self._steps()}.")
        return step

    def known_step(self, step: int, typed: str = "--step ") -> int:
        """Return a step that is there; raises MissingError, which names those that are."""
        with reachable("--checkpoints", self.checkpoints):
            if step not in committed_steps(self.store):
                raise MissingError(
                    f"{typed}{step} is not there in {self.store.url}. Its steps: {self._steps()}."
                )
        return step

    def _best_good_step(self, on_damage: Callable[[str], None], typed: str) -> int:
        with reachable("--checkpoints", self.checkpoints):
            evaluated = best_first(self.store)
            for step in evaluated:
                if not (damage := damage_seen_twice(self.store, step)):
                    return step
                on_damage(f"{damage} Taking the next best.")
        what = "that can be loaded" if evaluated else "that was evaluated (--eval-every)"
        raise MissingError(
            f"{typed}best is not there: run {self.name} has no step {what}, in {self.store.url}. Its "
            f"steps: {self._steps()}."
        )

    def _steps(self) -> str:
        return ", ".join(map(str, committed_steps(self.store))) or "none"

    def step_place(self, step: int) -> str:
        """Return the path or URL of a step's folder."""
        return (self.store / step_name(step)).url

    @property
    def _runs(self) -> str:
        return self.runs or self.config.runs

    def _saved_at(self) -> float:
        with suppress(PermissionError):  # somebody's own
            for step in reversed(committed_steps(self.store)):
                with suppress(CorruptFileError, FileNotFoundError):  # damaged, removed meanwhile
                    return read_manifest(self.store, step).saved_at
        return 0.0

    def _missing(self) -> MissingError:
        others = [run.name for run in runs_in(self.checkpoints)]
        return MissingError(
            f"Run {self.name} is not there: no {self.store.where('run.json')}. Runs there: "
            f"{', '.join(others) or 'none'}.{perhaps(self.name, others)}"
        )


def runs_in(checkpoints: str, runs: str | None = None) -> list[Run]:
    """Return the runs that keep their checkpoints in a place, by name; arguments as `Run.find`."""
    check_looked_in("--checkpoints", checkpoints, may_be_missing=True)
    place = Store(absolute(checkpoints))
    with reachable("--checkpoints", checkpoints):
        return [
            Run(name, place / name, absolute(runs) if runs else "")
            for name in place.names()
            if PLAIN_NAME.fullmatch(name) and _is_run(place, name)
        ]


def _is_run(place: Store, name: str) -> bool:
    try:
        return place.exists(f"{name}/run.json")
    except PermissionError:  # somebody's own, which who asks for it is told
        return True
