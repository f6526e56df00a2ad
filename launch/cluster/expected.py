"""
When Slurm expects a job to start, where it knows.

    believable("2026-11-28T08:00:00")
"""

from __future__ import annotations

import time

FARTHEST_SECONDS = 360 * 86400.0  # Slurm's word for "nobody knows" is a year from now


def believable(start: str) -> str:
    """Return a start that Slurm expects; "" where it expects none, or only says a year from now."""
    try:
        begins = time.mktime(time.strptime(start, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return ""
    return start if begins - time.time() < FARTHEST_SECONDS else ""
