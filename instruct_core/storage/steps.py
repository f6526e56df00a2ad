"""
Step folders by name, for those who look at a run without loading it. No torch.

    committed_steps(Store("checkpoints_instruct/my-run"))     # [100, 200, 300]
"""

from __future__ import annotations

import re

from instruct_core.storage.store import Store

STEP_FOLDER = re.compile(r"step-(\d{8})")


def step_name(step: int) -> str:
    """Return the folder name of a step."""
    return f"step-{step:08d}"


def committed_steps(store: Store) -> list[int]:
    """Return the steps that have a manifest, oldest first. Their bytes are not verified."""
    matches = [STEP_FOLDER.fullmatch(name) for name in store.names()]
    steps = [int(match[1]) for match in matches if match]
    return [step for step in steps if store.exists(f"{step_name(step)}/manifest.json")]
