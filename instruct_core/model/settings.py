"""
Somebody's config.json, asked for one setting after another; what does not fit is refused by its name.

    said = Settings(values, "config.json", "path/to/model", "llama", DEFAULTS)
    said.count("hidden_size"), said.number("rms_norm_eps", 1e-6)
    raise said.refusal("sliding_window", "only null is followed")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from instruct_core.checkpoints.manifest import MAX_SHAPE
from instruct_core.errors import ConfigError

LARGEST = 1e30  # number that any of these settings could have


class Settings(NamedTuple):
    """What was said, where, and of which type of model."""

    values: Mapping[str, Any]
    place: str  # in words
    init: str  # the model
    model_type: str
    defaults: Mapping[str, Mapping[str, Any]]  # by name and type; "" for any other type
    prefix: str = ""  # of every name: where an object inside the file is asked

    def get(self, name: str) -> Any:
        """Return what is said, or the default of this type of model."""
        if name in self.values:
            return self.values[name]
        defaults = self.defaults.get(name, {})
        return defaults.get(self.model_type, defaults.get(""))

    def count(self, name: str, if_null: int | None = None, least: int = 1) -> int:
        """Return a whole number that a model could have."""
        value = self.get(name)
        if value is None:
            value = if_null
        if type(value) is not int or not least <= value <= MAX_SHAPE:
            raise self.refusal(name, f"it must be a whole number from {least} to {MAX_SHAPE}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number above zero."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < LARGEST:
            raise self.refusal(name, "it must be a number above 0")
        return float(value)

    def switch(self, name: str) -> bool:
        """Return what is on; what is not said is off."""
        value = self.values.get(name) or False
        if not isinstance(value, bool):
            raise self.refusal(name, "it must be true or false")
        return value

    def inside(self, name: str) -> Settings:
        """Return the settings of an object in the file, without those that are null."""
        value = self.values.get(name) or {}
        if not isinstance(value, dict):
            raise self.refusal(name, "it must be an object")
        given = {key: one for key, one in value.items() if one is not None}
        return self._replace(values=given, defaults={}, prefix=f"{self.prefix}{name}.")

    def refusal(self, name: str, why: str) -> ConfigError:
        """Return what is said of a model whose setting is not followed."""
        value = self.get(name)
        found = "nothing" if value is None else str(value)[:80]
        return ConfigError(
            f"Model {self.init} is no {self.model_type} that is computed here: {self.place} has "
            f"{self.prefix}{name} {found}, and {why}. Give another model."
        )
