"""oneDNN multiplies only where it errs as little as float32 does, and all is as before after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from instruct_core.model import products
from instruct_core.model.products import ONEDNN, USUAL, is_exact, is_quicker, products_by

NUM_KINDS = len(products._one_of_each_kind(torch.float32))
HAS_ONEDNN = products._has_onednn()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test plays must not be remembered by the next one."""
    for known in (is_exact, is_quicker):
        known.cache_clear()
    yield
    for known in (is_exact, is_quicker):
        known.cache_clear()


def played(monkeypatch: pytest.MonkeyPatch, capability: str, cpuinfo: str) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn.m, "is_available", lambda: True)
    monkeypatch.setattr(products, "_processor", lambda: cpuinfo)


def precision() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


def test_setting_lasts_as_long_as_it_was_asked_for() -> None:
    before = precision()
    with products_by(ONEDNN):
        inside = precision()
        with products_by(USUAL):
            deeper = precision()
        back = precision()
    with pytest.raises(ZeroDivisionError), products_by(ONEDNN):
        _ = 1 / 0

    assert (inside, deeper, back) == ("bf16", "none", "bf16")
    assert precision() == before


def test_each_kind_of_product_is_float32s_own_by_itself() -> None:
    exact = products._one_of_each_kind(torch.float64)

    errors = map(products._error, products._one_of_each_kind(torch.float32), exact)

    assert all(0 < error < products.MAX_ERROR / 3 for error in errors)


def test_trying_products_draws_no_random_number_of_a_run() -> None:
    before = torch.get_rng_state()

    products._one_of_each_kind(torch.float32)

    assert torch.equal(torch.get_rng_state(), before)


def test_processor_that_computes_in_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one with AMX does, where torch may round: here autocast plays it."""

    @contextmanager
    def rounding(library: str) -> Iterator[None]:
        with torch.autocast("cpu", torch.bfloat16, enabled=library == ONEDNN):
            yield

    played(monkeypatch, "AVX512", "")
    monkeypatch.setattr(products, "products_by", rounding)

    assert not is_exact()


@pytest.mark.parametrize("kind", range(NUM_KINDS))
@pytest.mark.parametrize("rounded", [lambda x: x.bfloat16().float(), lambda x: x.half().float()])
def test_one_kind_of_product_that_rounds_is_enough_to_refuse(
    monkeypatch: pytest.MonkeyPatch, kind: int, rounded: Callable[[Tensor], Tensor]
) -> None:
    found = products._one_of_each_kind(torch.float32)
    exact = products._one_of_each_kind(torch.float64)
    answers = {torch.float32: found, torch.float64: exact}
    played(monkeypatch, "AVX512", "")
    monkeypatch.setattr(products, "_one_of_each_kind", answers.__getitem__)
    as_it_is = is_exact()
    is_exact.cache_clear()
    found[kind] = rounded(found[kind])

    assert as_it_is
    assert not is_exact()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_product_that_is_no_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, broken: float
) -> None:
    found = products._one_of_each_kind(torch.float32)
    exact = products._one_of_each_kind(torch.float64)
    found[0] = found[0] * broken
    answers = {torch.float32: found, torch.float64: exact}
    played(monkeypatch, "AVX512", "")
    monkeypatch.setattr(products, "_one_of_each_kind", answers.__getitem__)

    assert not is_exact()


@pytest.mark.skipif(not HAS_ONEDNN, reason="torch hands no product to oneDNN here")
def test_products_by_onednn_have_the_same_bits_every_time() -> None:
    with products_by(ONEDNN):
        first, again = (products._one_of_each_kind(torch.float32) for _ in range(2))

    assert all(map(torch.equal, first, again))
