"""How torch is loaded."""

from __future__ import annotations

import gc

from jobs.environment import loading


def test_what_is_loaded_is_not_looked_at_for_garbage() -> None:
    before = gc.get_freeze_count()

    with loading():
        was_off = not gc.isenabled()
        loaded = [[number] for number in range(1000)]

    assert was_off
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(loaded)
    gc.unfreeze()
