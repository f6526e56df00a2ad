"""
Rows tokenized while they are checked, where the tasks would run on this machine anyway.

    with Drafting(store, tokenizer, number=2) as drafting:
        plan = scan(..., how=drafting.how(0, source))      # several processes, each row read once
        for _ in drafting.writer(plan)(range(plan.num_parts)): ...

Nothing is written before every row has been checked and the plan lies there. What is missing after that,
as after a kill, array tasks make from the source: the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType

from instruct_core.data.drafts import Spool
from instruct_core.data.reading import How
from instruct_core.data.shard_plan import ShardPlan
from instruct_core.data.shards import write_rows
from instruct_core.data.sources import Source
from instruct_core.data.tokenizer import Tokenizer
from instruct_core.storage.names import nearest
from instruct_core.storage.store import Store
from launch.arrays.forks import in_forks


class Drafting:
    """
    How the sources of a shard set are read.

    Args:
        store: The shard set.
        tokenizer: Makes tokens on the way; None leaves that to tasks.
        number: Processes.
    """

    def __init__(self, store: Store, tokenizer: Tokenizer | None, number: int) -> None:
        self._store, self._number = store, number
        self._tokenizer = tokenizer if store.is_local else None
        self._spools = dict[int, Spool]()
        self._open = ExitStack()

    def __enter__(self) -> Drafting:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def how(self, number: int, source: Source) -> How:
        """Return how to read a source, by its number among all."""
        if any("://" in file for file in source.files):  # its rate is that of a network
            return How()
        spread = partial(in_forks, self._number) if self._number > 1 else None
        if self._tokenizer is None:
            return How(spread)
        folder = nearest(self._store.local_path("."))
        spool = Spool(folder, self._number, self._tokenizer)
        self._open.callback(spool.close)
        self._spools[number] = spool
        return How(spread, spool)

    def writer(self, plan: ShardPlan) -> Callable[[Sequence[int]], Iterator[None]] | None:
        """Return what writes shards of a plan; None where tokens of a source are not at hand."""
        sources = {plan.blocks(shard)[0] for shard in range(plan.num_parts)}
        if not sources <= self._spools.keys():
            return None
        return lambda shards: self._write(plan, shards)

    def _write(self, plan: ShardPlan, shards: Sequence[int]) -> Iterator[None]:
        def write(shard: int) -> None:
            source, first_block, num_blocks = plan.blocks(shard)
            rows, hashes = self._spools[source].rows(first_block, num_blocks)
            write_rows(self._store, plan, shard, rows, plan.chosen(shard, hashes))

        if self._number > 1:
            yield from in_forks(self._number, lambda _: write, shards)
        else:
            yield from map(write, shards)
