"""
Which library multiplies float32 matrices in an attempt, the same on all ranks: what its run began with.

    library = choose_products(checkpoints.store, device)
    with products_by(library): ...                  # see instruct_core/model/products.py

Every checkpoint says by what it was made, so whoever goes on from it adds in the same order.
"""

from __future__ import annotations

import contextlib

import torch

from instruct_core import ranks
from instruct_core.checkpoints.steps import committed_newest_first, read_manifest
from instruct_core.errors import CorruptFileError
from instruct_core.model.products import ONEDNN, USUAL, is_exact, is_quicker
from instruct_core.storage.store import Store

PRODUCTS = "products"  # beside the versions in a manifest; left out where it is the usual one


def choose_products(checkpoints: Store, device: torch.device) -> str:
    """
    Return which library multiplies on CPUs; called by all ranks.

    Args:
        checkpoints: Of the run.
        device: What this rank computes on.

    Returns:
        The one that made the newest checkpoint, where every rank can have it as exact; for a run
        that has none, the one that is quicker here.
    """
    made_by = ranks.value_of_rank_0(_made_by(checkpoints) if ranks.rank() == 0 else None)
    wanted = made_by == ONEDNN or (made_by is None and is_quicker())
    has_it = device.type == "cpu" and wanted and is_exact()
    return ONEDNN if all(ranks.gather_from_ranks(has_it)) else USUAL


def _made_by(checkpoints: Store) -> str | None:
    """Return what the newest checkpoint says, None where there is none; older runs do not say it."""
    for step, folder in committed_newest_first(checkpoints):
        # A damaged one is judged by loading; an older one tells the same.
        with contextlib.suppress(CorruptFileError, FileNotFoundError):
            manifest = read_manifest(checkpoints, step, folder)
            return (manifest.versions or {}).get(PRODUCTS, USUAL)
    return None
