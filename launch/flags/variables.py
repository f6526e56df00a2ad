"""
Environment variables that stand for flags which nobody has typed. No heavy imports.

    value_of("account", flags.account)      # what was typed, else what SBATCH_ACCOUNT has
    with naming({"partition": flags.partition}):
        ...                                  # a refusal in here says that SBATCH_PARTITION is set
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from instruct_core.errors import ConfigError

VARIABLES = {"partition": "SBATCH_PARTITION", "account": "SBATCH_ACCOUNT", "qos": "SBATCH_QOS"}


def value_of(name: str, typed: str | None) -> str | None:
    """
    Return a flag's value: what was typed, else what its variable has; None where both are missing.

    Raises:
        ConfigError: What the variable has could not be typed.
    """
    found = typed or os.environ.get(VARIABLES[name]) or None
    if found is not None and not typed and not (found.strip() and found.isprintable()):
        raise ConfigError(f"{VARIABLES[name]} must be one line that can be printed, got {found!r}.")
    return found


def taken(typed: Mapping[str, str | None]) -> tuple[str, ...]:
    """Return the variables that stand for flags, as in SBATCH_QOS=high; flags as typed, by name."""
    names = [VARIABLES[name] for name, value in typed.items() if not value]
    return tuple(f"{name}={os.environ[name]}" for name in names if os.environ.get(name))


@contextmanager
def naming(typed: Mapping[str, str | None]) -> Iterator[None]:
    """Have a refusal name the variables that stand for flags; flags as typed, by name."""
    try:
        yield
    except ConfigError as error:
        if not (found := ", ".join(taken(typed))):
            raise
        first, dot, rest = str(error).rstrip(".").partition(". ")
        raise ConfigError(f"{first} ({found} is set){dot}{rest}.") from None
