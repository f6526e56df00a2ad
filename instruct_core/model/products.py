"""
Which library multiplies float32 matrices on a CPU: torch's usual one, or oneDNN.

    with products_by(best_library()): ...

MKL, which torch takes, is slower than oneDNN on processors of AMD's. torch hands float32 products to
oneDNN where these may be rounded to bfloat16. oneDNN makes no use of that but on processors with AMX.
That is measured here and not believed: a product of each kind that a model makes is compared with
float64's, and where one errs by more than float32 does, nothing changes. The two libraries add in another
order, so their last bits differ: a run keeps the one it began with.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

USUAL, ONEDNN = "usual", "oneDNN"  # as they are kept with an attempt
MAX_ERROR = 1e-5  # float32's is some 1e-6 of the largest number, TF32's 5e-4, bfloat16's 4e-3
TOKENS, WIDTH, HEADS = 64, 128, 2  # of the products that are tried: some milliseconds


@contextmanager
def products_by(library: str) -> Iterator[None]:
    """Have a library multiply on the CPU, and put back after it what was before."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch does not type it
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16" if library == ONEDNN else "none"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@functools.cache
def is_quicker() -> bool:
    """
    Return True where oneDNN is the quicker one: on processors of AMD's with AVX-512.

    A rule and no timing, which would have one run compute in two ways. See docs/performance.md.
    """
    return _has_onednn() and "AuthenticAMD" in _processor()


@functools.cache
def is_plain_best_for_a_row() -> bool:
    """
    Return True where torch's usual library takes one row through plain weights as fast as they are read.

    So does MKL on processors of Intel's, where packed weights are slower. See docs/performance.md.
    """
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    return has_mkl and "GenuineIntel" in _processor()


@functools.cache
def is_exact() -> bool:
    """Return True where oneDNN multiplies, and errs no more than float32 does."""
    if not _has_onednn():
        return False
    with products_by(ONEDNN):
        found = _one_of_each_kind(torch.float32)
    exact = _one_of_each_kind(torch.float64)
    return all(_error(*pair) < MAX_ERROR for pair in zip(found, exact, strict=True))


def best_library() -> str:
    """Return what a run that begins on this CPU alone multiplies by."""
    return ONEDNN if is_quicker() and is_exact() else USUAL


def _has_onednn() -> bool:
    """Return True where torch hands products to oneDNN if it may: not without AVX-512."""
    capability = torch.backends.cpu.get_cpu_capability()
    has_it: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_it and capability.startswith("AVX512")


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max())


def _one_of_each_kind(dtype: torch.dtype) -> list[Tensor]:
    """Return what a layer, attention and their backward make of the same float32 numbers."""
    generator = torch.Generator().manual_seed(0)  # a run's random numbers stay where they are

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype).requires_grad_()

    def gradients(y: Tensor, *leaves: Tensor) -> Sequence[Tensor]:
        # Of a sum: torch imports sympy, half a second, to look at gradients that it is handed.
        return torch.autograd.grad((y * drawn(*y.shape)).sum(), leaves)

    with torch.inference_mode(mode=False), torch.enable_grad():
        found = []
        for tokens in (1, TOKENS):
            x, weight = drawn(tokens, WIDTH), drawn(4 * WIDTH, WIDTH)
            y = F.linear(x, weight)
            found += [y, *gradients(y, x, weight)]
        q, k, v = (drawn(2, HEADS, TOKENS, WIDTH // HEADS) for _ in range(3))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        found += [y, *gradients(y, q, k, v), q @ k.mT]
        return [each.detach() for each in found]
