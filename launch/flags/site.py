"""
A site's profile: flags of the commands on Slurm that nobody wants to type each time. No heavy imports.

    flags = parse_on_site(Finetune, sys.argv[1:], usage=__doc__)
    Site.found().line("finetune")    # "/home/ada/site.toml: --partition=gpu --account=lab; ..."

The file is `site.toml` in the folder one types in or in the project's, else
`~/.config/instruct-cluster/site.toml`; INSTRUCT_SITE names another one, and none where it is empty. It
has flags by name, and may have a table for one command:

    account = "lab"
    sbatch = ["mem=", "reservation=course"]
    [preprocess]
    partition = "cpu"

What is typed counts most, then what a run was launched with, then the profile.
"""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from instruct_core.errors import ConfigError
from instruct_core.recipe import flag_of
from launch.flags.home import own_folder
from launch.flags.parse import parse_flags
from launch.flags.sbatch import options_of, words_of
from launch.flags.slurm import SlurmFlags, check_slurm_flags

T = TypeVar("T")

NAME = "site.toml"
VARIABLE = "INSTRUCT_SITE"
PROJECT = Path(__file__).resolve().parents[2]
COMMANDS = ("finetune", "preprocess", "generate", "drill", "doctor")
NOT_OF_A_SITE = ("after",)  # of one job
LISTS = tuple(field.name for field in fields(SlurmFlags) if field.default == ())
NOTHING = "None"  # typed for a flag, it stands for its default


def home_profile() -> Path | None:
    """Return where a person's own profile lies; None for one who has no home."""
    home = own_folder("XDG_CONFIG_HOME", ".config")
    return None if home is None else home / NAME


@dataclass(frozen=True)
class Site:
    """A profile; without a path it is empty."""

    path: Path | None = None
    values: Mapping[str, Any] | None = None

    @classmethod
    def found(cls) -> Site:
        """
        Return the profile that counts here.

        Raises:
            ConfigError: It cannot be read, or has what is no flag; names file, key and what is known.
        """
        named = os.environ.get(VARIABLE)
        if named == "":
            return cls()
        places = [Path(NAME), PROJECT / NAME, home_profile()]
        found = (place for place in places if place is not None and place.is_file())
        path = Path(named) if named else next(found, None)
        return cls(path.absolute(), _read(path.absolute())) if path is not None else cls()

    def flags(self, command: str) -> dict[str, list[str]]:
        """
        Return what a command takes from it: the words of each flag, by its name.

        Raises:
            ConfigError: A value does not fit; names the file, and what is right.
        """
        values = dict(self.values or {})
        own = {name: table for name, table in values.items() if name in COMMANDS}
        values = {n: v for n, v in values.items() if n not in own} | own.get(command, {})
        found = {_name(key): self._words(key, value) for key, value in values.items()}
        words = [word for each in found.values() for word in each]
        try:
            check_slurm_flags(parse_flags(SlurmFlags, words))
        except ConfigError as error:
            said = str(error).partition(" See python ")[0]
            raise ConfigError(f"Profile {self.path}, for {command}: {said}") from None
        return found

    def line(self, command: str) -> str:
        """Return which profile it is and what a command takes from it; "" where there is none."""
        if self.path is None:
            return ""
        words = [word for each in self.flags(command).values() for word in each]
        return f"{self.path}: {shlex.join(words) or 'nothing'}; what is typed counts more"

    def _words(self, key: str, value: Any) -> list[str]:
        values = value if isinstance(value, list) and _name(key) in LISTS else [value]
        if any(
            isinstance(each, bool) or not isinstance(each, str | int | float) for each in values
        ):
            takes = "a text or a list of texts" if _name(key) in LISTS else "a text or a number"
            raise ConfigError(f"Profile {self.path}: {key} takes {takes}, got {value!r}.")
        return [f"{flag_of(_name(key))}={each}" for each in values]


def _name(key: str) -> str:
    return key.replace("-", "_")


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"Profile {path} cannot be read: {why}. It is looked for in {VARIABLE}, here, beside the "
            f"project and in {home_profile() or 'a home, which you do not have here'}."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Profile {path} is no TOML: {error}.") from None
    for command in COMMANDS:
        if command in values and not isinstance(values[command], dict):
            raise ConfigError(f"Profile {path}: {command} must be a table, as in [{command}].")
    known = [field.name for field in fields(SlurmFlags) if field.name not in NOT_OF_A_SITE]
    tables = [values, *(values[name] for name in COMMANDS if name in values)]
    for key in [key for table in tables for key in table]:
        if _name(key) not in known and not (key in COMMANDS and key in values):
            raise ConfigError(
                f"Profile {path} has an unknown key {key}. Known are {', '.join(sorted(known))}, and a "
                f"table for each of {', '.join(COMMANDS)}."
            )
    return values


def parse_on_site(
    flags: type[T], arguments: Sequence[str], default: T | None = None, usage: str | None = None
) -> T:
    """
    Return the flags that a person typed, and for those nobody typed what the profile has.

    Args:
        flags: A dataclass with a field `slurm`.
        arguments: Words of the command line.
        default: What the work has already; it counts more than the profile.
        usage: As in `parse_flags`.

    Raises:
        ConfigError: As `parse_flags`; or the profile is wrong.
    """
    if {"-h", "--help", "--help-all"} & set(arguments):
        return parse_flags(flags, arguments, default, usage=usage)
    of_site = Site.found().flags(flags.__name__.lower())
    known = cast("Any", default).slurm if default is not None else SlurmFlags()
    keys = options_of(known.sbatch).keys()
    words = []
    for name, each in of_site.items():
        if name == "sbatch":
            words += [w for w in each if options_of([w.partition("=")[2]]).keys().isdisjoint(keys)]
        elif getattr(known, name) in (None, ()) and flag_of(name) not in flags_in(arguments):
            words += each
    return parse_typed(flags, [*words, *arguments], default, usage)


def parse_typed(
    flags: type[T], arguments: Sequence[str], default: T | None = None, usage: str | None = None
) -> T:
    """
    Return the flags that a person typed, whatever a profile has; arguments as in `parse_on_site`.

    Lines of --setup that are typed take the place of those the work has. Options of --sbatch are flags of
    their own: each takes the place of the same one.
    """
    if default is not None and "--setup" in flags_in(arguments):
        slurm = replace(cast("Any", default).slurm, setup=())
        default = replace(cast("Any", default), slurm=slurm)
    parsed: Any = parse_flags(flags, arguments, default, usage=usage)
    sbatch = words_of(options_of(_after_nothing(parsed.slurm.sbatch)))
    slurm = replace(parsed.slurm, sbatch=sbatch, setup=_after_nothing(parsed.slurm.setup))
    return cast("T", replace(parsed, slurm=slurm))


def flags_in(arguments: Sequence[str]) -> set[str]:
    """Return the flags in a command line, as they are documented: --gpu-type."""
    return {word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--")}


def _after_nothing(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return what was typed after the last None, which drops what the work has."""
    return words[len(words) - words[::-1].index(NOTHING) :] if NOTHING in words else words
