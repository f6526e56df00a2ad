"""
Random number generators of one rank as tensors, so that a checkpoint holds no pickle.

    state = rng_state()
    restore_rng(state)         # dropout goes on with the very next draw

Python's, numpy's and torch's global generators, and the one of the current CUDA device.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def be_deterministic() -> None:
    """
    Have a GPU compute the same bits every time; call it before CUDA starts.

    On a CPU everything is deterministic, and saying so would import the compiler: a second.
    """
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Not warn_only: with it, attention's backward stays free to sum in any order.
        torch.use_deterministic_algorithms(True)
        # Nothing reads memory that nothing has written; to fill it all first takes time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def seed_rng(seed: int, rank: int, step: int) -> None:
    """Start all generators from a place of their own for every rank and step."""
    words = np.random.SeedSequence([seed, rank, step]).generate_state(3, np.uint32).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    torch.manual_seed(words[2])  # CUDA's generators too


def rng_state() -> dict[str, Tensor]:
    """Return the state of all generators."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(np.array([*keys, position, has_gauss], dtype=np.int64)),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(state: Mapping[str, Tensor]) -> None:
    """Put all generators back to a state of `rng_state`."""
    version, *words = state["python"].tolist()
    gauss = state["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    *keys, position, has_gauss = state["numpy"].tolist()
    cached = state["numpy_gauss"].item()
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].clone())
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].clone())
