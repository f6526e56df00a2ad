"""Which library multiplies in an attempt: what made the checkpoint that it goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from instruct_core.checkpoints.retention import Keep
from instruct_core.checkpoints.steps import step_name
from instruct_core.checkpoints.writer import Checkpoints
from instruct_core.storage.store import Store
from instruct_core.train.rng import rng_state
from jobs import products as module
from jobs.products import choose_products
from tests.fakes import facts_of

CPU = torch.device("cpu")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(Store(tmp_path / "run"))
    checkpoints.claim_attempt()
    return checkpoints


def save(checkpoints: Checkpoints, step: int, **versions: str) -> None:
    facts: dict[str, Any] = facts_of(step) | {"versions": {"torch": "2.13.0", **versions}}
    tensors = {"a": torch.ones(3)}
    state = rng_state()
    snapshot = checkpoints.take(step, tensors, {"model_type": "gpt2"}, tensors, state, facts)
    checkpoints.write(snapshot, Keep())


def this_processor(monkeypatch: pytest.MonkeyPatch, is_quicker: bool, is_exact: bool) -> None:
    monkeypatch.setattr(module, "is_quicker", lambda: is_quicker)
    monkeypatch.setattr(module, "is_exact", lambda: is_exact)


@pytest.mark.parametrize(
    ("is_quicker", "is_exact", "expected"),
    [(True, True, "oneDNN"), (True, False, "usual"), (False, True, "usual")],
)
def test_new_run_takes_the_quicker_one_where_it_is_exact(
    checkpoints: Checkpoints,
    monkeypatch: pytest.MonkeyPatch,
    is_quicker: bool,
    is_exact: bool,
    expected: str,
) -> None:
    this_processor(monkeypatch, is_quicker, is_exact)

    assert choose_products(checkpoints.store, CPU) == expected


@pytest.mark.parametrize(
    ("versions", "is_quicker", "is_exact", "expected"),
    [
        ({}, True, True, "usual"),  # older than the choice
        ({"products": "oneDNN"}, False, True, "oneDNN"),  # moved to a node where it gains nothing
        ({"products": "oneDNN"}, True, False, "usual"),  # to one that rounds
    ],
)
def test_run_multiplies_with_what_made_its_checkpoint_where_it_can(
    checkpoints: Checkpoints,
    monkeypatch: pytest.MonkeyPatch,
    versions: dict[str, str],
    is_quicker: bool,
    is_exact: bool,
    expected: str,
) -> None:
    this_processor(monkeypatch, is_quicker, is_exact)
    save(checkpoints, 5, **versions)

    assert choose_products(checkpoints.store, CPU) == expected


def test_older_checkpoint_tells_where_the_newest_is_damaged_or_half_written(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    this_processor(monkeypatch, is_quicker=False, is_exact=True)
    save(checkpoints, 5, products="oneDNN")
    checkpoints.store.replace(f"{step_name(10)}/manifest.json", b"{}")
    checkpoints.store.replace(f"{step_name(15)}/config.json", b"{}")

    assert choose_products(checkpoints.store, CPU) == "oneDNN"


def test_run_on_a_gpu_leaves_the_products_of_its_cpu_alone(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    this_processor(monkeypatch, is_quicker=True, is_exact=True)

    assert choose_products(checkpoints.store, torch.device("cuda")) == "usual"
