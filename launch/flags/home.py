"""
Folders of the person who types, in their home. No heavy imports.

    own_folder("XDG_CONFIG_HOME", ".config")     # ~/.config/instruct-cluster

A number that has no name and no home, as in a container that is started with one, has none.
"""

from __future__ import annotations

import os
from pathlib import Path


def own_folder(variable: str, usual: str) -> Path | None:
    """
    Return a folder for what is kept of this project; None where nobody knows a home.

    Args:
        variable: That names the folder it is in.
        usual: That folder where nothing does, below the home.
    """
    try:
        above = os.environ.get(variable) or Path.home() / usual
    except RuntimeError:
        return None
    return Path(above).absolute() / "instruct-cluster"
