"""
One task of a preprocessing array: every num_tasks-th shard of the plan.

    submit_slurm(PreprocessJob(out="shards/alpaca", num_tasks=16), ...)     # array tasks 0-15

The plan lies in the shard set as plan.json; the manifest completes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from instruct_core.data.fast_tokenizer import EncoderName, choose_tokenizer
from instruct_core.data.mixed_plan import load_shard_plan
from instruct_core.data.shard_plan import ShardPlan
from instruct_core.data.shards import (
    is_complete,
    is_written,
    missing_shards,
    write_manifest,
    write_shard,
)
from instruct_core.data.tokenizer import Tokenizer, load_tokenizer
from instruct_core.data.tokenizer_files import TOKENIZER_FOLDER
from instruct_core.errors import ConfigError
from instruct_core.storage.store import Store
from jobs.array_job import ArrayJob


@dataclass(frozen=True)
class PreprocessJob(ArrayJob[ShardPlan]):
    """What one task runs; ``out`` is the shard set."""

    encoder: EncoderName = "auto"

    @property
    def store(self) -> Store:
        """The shard set."""
        return Store(self.out)

    def plan(self) -> ShardPlan:
        """Return the plan that lies in the shard set."""
        return load_shard_plan(self.store)

    def missing(self, plan: ShardPlan) -> list[int]:
        """Return the shards of which a file is not there."""
        return missing_shards(self.store, plan)

    def is_made(self, plan: ShardPlan, part: int) -> bool:
        """Return True if both files of a shard verify."""
        return is_written(self.store, plan, part)

    def writer(self, plan: ShardPlan) -> Callable[[int], None]:
        """Return what tokenizes and writes a shard."""
        store, tokenizer = self.store, self._tokenizer(plan)
        return lambda shard: write_shard(store, plan, shard, tokenizer)

    def _tokenizer(self, plan: ShardPlan) -> Tokenizer:
        if plan.own_tokenizer is None:
            return choose_tokenizer(self.encoder)
        tokenizer = load_tokenizer(self.store.where(TOKENIZER_FOLDER))
        if tokenizer.identity != plan.tokenizer:
            raise ConfigError(
                f"Tokenizer {self.store.where(TOKENIZER_FOLDER)} is {tokenizer.identity}, and the shards "
                f"are planned with {plan.tokenizer}. Give the preprocess command again."
            )
        return tokenizer

    def is_complete(self, plan: ShardPlan) -> bool:
        """Return True if the manifest is of this plan."""
        return is_complete(self.store, plan)

    def complete(self, plan: ShardPlan) -> None:
        """Write the manifest."""
        write_manifest(self.store, plan)
