"""
Between two steps nothing is asked of the device, and what is told late is the same.

A CPU stands in for a GPU: it may have a step in flight like one, and every number that leaves a tensor is
noted, with the step that made it and the step that was queued last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from instruct_core.checkpoints.steps import committed_steps
from instruct_core.data.batches import LossOn
from instruct_core.errors import NonFiniteError
from instruct_core.train.flight import STEPS_IN_FLIGHT
from instruct_core.train.loss import WithLoss
from instruct_core.train.progress import StepReport
from instruct_core.train.validation import validation_loss
from tests.conftest import hashes_of
from tests.forked_ranks import in_ranks
from tests.instruct_core.train.desk import CONFIG, Desk, poison

# What a host learns from, or what has a size that only the device knows: each waits on a GPU.
WAITING = {"item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "cpu"}
WAITING_KERNELS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"}
QUIET = replace(CONFIG, max_steps=4, eval_every=100, save_every=100)


class Read(NamedTuple):
    """A tensor that the host looked into."""

    how: str
    made_in: int  # steps that were queued when it was made
    read_in: int  # and when it was read


class _Kernels(TorchDispatchMode):
    """Notes when each tensor was made, and which kernels wait."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.made_in: dict[int, int] = {}  # by where its memory begins
        self.reads: list[Read] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING_KERNELS:
            self.note(name, args[0])
        result = func(*args, **(kwargs or {}))
        aliases = [returned.alias_info for returned in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        for tensor in [] if is_view else torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.made_in[tensor.untyped_storage().data_ptr()] = self.step
        if name == "_fused_adamw_" and args[0][0].dim() >= 2:  # the first of two groups
            self.step += 1
        return result

    def note(self, how: str, tensor: torch.Tensor) -> None:
        made_in = self.made_in.get(tensor.untyped_storage().data_ptr())
        if made_in is not None:
            self.reads.append(Read(how, made_in, self.step))


class _Calls(TorchFunctionMode):
    """Notes what Python asks of tensors: some of it never reaches a kernel on a CPU."""

    def __init__(self, kernels: _Kernels) -> None:
        super().__init__()
        self._kernels = kernels

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in WAITING:
            self._kernels.note(name, args[0])
        return func(*args, **(kwargs or {}))


@contextmanager
def reads() -> Iterator[list[Read]]:
    kernels = _Kernels()
    with _Calls(kernels), kernels:
        yield kernels.reads


def steps_between(found: list[Read]) -> set[int]:
    """Return how many updates were queued between making and reading a number."""
    return {read.read_in - read.made_in for read in found}


@pytest.fixture
def desk(tmp_path: Path, shard_set: Path) -> Desk:
    return Desk(tmp_path, shard_set)


@pytest.fixture
def in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS_IN_FLIGHT, "cpu", 1)


@pytest.mark.usefixtures("in_flight")
@pytest.mark.parametrize("loss_on", ["all", "response"])
def test_no_number_is_read_of_a_step_before_the_next_one_is_queued(
    desk: Desk, loss_on: LossOn
) -> None:
    desk.learn(loss_on)
    trainer = desk.trainer(QUIET)
    trainer._evaluate = lambda: True  # type: ignore[method-assign]  # waits, and may

    with reads() as found:
        trainer.run()

    # All but the last step, which nothing follows.
    steady = [read for read in found if read.made_in < QUIET.max_steps - 1]
    assert len(steady) >= 2 * (QUIET.max_steps - 1)  # loss and norm of each
    assert steps_between(steady) == {2}, steady


def test_without_a_step_in_flight_its_numbers_are_read_at_once(desk: Desk) -> None:
    trainer = desk.trainer(QUIET)
    trainer._evaluate = lambda: True  # type: ignore[method-assign]

    with reads() as found:
        trainer.run()

    assert steps_between(found) == {1}


def test_evaluation_reads_one_number_however_many_micro_batches_there_are(desk: Desk) -> None:
    reader, core = desk.readers["val"], WithLoss(desk.model)
    assert len(reader) > 2

    with reads() as found:
        validation_loss(core, reader, torch.device("cpu"), 2, nullcontext(), lambda: False)

    assert [read.how for read in found] == ["item", "_local_scalar_dense"]


def told(reports: list[StepReport]) -> list[Any]:
    """Return what reports say, but for what depends on a clock."""
    return [
        (report.progress, {k: repr(v) for k, v in report.values.items() if "second" not in k})
        for report in reports
    ]


def saved_progress(folder: Path, step: int) -> dict[str, Any]:
    """Return where a checkpoint says that the run stands."""
    manifest = json.loads((folder / f"step-{step:08d}" / "manifest.json").read_text())
    return dict(manifest["progress"])


@pytest.mark.parametrize(
    ("poisoned", "saved"),
    [(set[int](), [3, 5]), ({3, 4, 9}, [4, 5])],  # of steps 2, 3 and 5: the save of 3 waits
    ids=["finite", "not finite"],
)
def test_step_in_flight_changes_neither_bits_nor_saves_nor_reports(
    tmp_path: Path,
    shard_set: Path,
    poisoned: set[int],
    saved: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(CONFIG, max_steps=5, eval_every=4, save_every=3, keep_checkpoints=9)
    desks = [Desk(tmp_path / name, shard_set) for name in ("at once", "late")]
    for in_flight, desk in enumerate(desks):
        monkeypatch.setitem(STEPS_IN_FLIGHT, "cpu", in_flight)
        poison(desk.model, poisoned)

        assert desk.trainer(config).run() == "finished"

    at_once, late = desks
    assert told(late.reports) == told(at_once.reports)
    assert [report.progress.global_step for report in late.reports] == list(range(1, 6))
    assert committed_steps(late.checkpoints.store) == saved
    for step in saved:
        assert hashes_of(tmp_path / "late", step) == hashes_of(tmp_path / "at once", step)
        assert saved_progress(tmp_path / "late", step) == saved_progress(tmp_path / "at once", step)


@pytest.mark.usefixtures("in_flight")
def test_warned_run_with_a_step_in_flight_saves_it_and_reports_it(desk: Desk) -> None:
    desk.stop = lambda: len(desk.reports) >= 2

    assert desk.trainer(replace(QUIET, max_steps=50)).run() == "stopped"

    newest = committed_steps(desk.checkpoints.store)[-1]
    assert [report.progress.global_step for report in desk.reports] == list(range(1, newest + 1))


@pytest.mark.usefixtures("in_flight")
def test_steps_in_a_row_that_are_not_finite_end_the_run_and_are_never_committed(desk: Desk) -> None:
    poison(desk.model, set(range(4, 1000)))
    config = replace(QUIET, max_steps=50, save_every=5)
    trainer = desk.trainer(config)
    trainer._evaluate = lambda: True  # type: ignore[method-assign]

    with pytest.raises(NonFiniteError, match="up to step 12"):
        trainer.run()

    assert all(torch.isfinite(v).all() for v in desk.model.state_dict().values())


@pytest.mark.usefixtures("in_flight")
def test_ranks_agree_on_the_loss_of_a_step_in_flight(tmp_path: Path, shard_set: Path) -> None:
    config = replace(QUIET, save_every=2)

    def train(rank: int) -> list[float]:
        desk = Desk(tmp_path / "two", shard_set)
        desk.trainer(config).run()
        return [report.values["train/loss"] for report in desk.reports]

    alone = Desk(tmp_path / "one", shard_set)
    alone.trainer(config).run()
    losses, nothing = in_ranks(2, train)

    assert losses == pytest.approx([r.values["train/loss"] for r in alone.reports], rel=1e-5)
    assert nothing == []
