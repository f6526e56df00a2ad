"""What can be typed after launch/demo.py: nothing but --help."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Demo:
    """
    Do the main job in five to ten minutes on two cores, with a warning on the way.

    Prepares shards, trains, is warned, comes back, finishes and answers, in this folder.
    """
