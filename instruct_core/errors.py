"""
Every error that a person or a machine can cause, so that a caller can tell them from our bugs.

A launcher prints an `InstructError` as one line and exits with 2; a job that ends with one is
not started again, because the same thing would happen again. Each also is the builtin error that
a caller would expect.

    InstructError
     ├── ConfigError (ValueError)          a setting that cannot be used
     │    └── RunConflictError             ... because the run was begun with another
     ├── MissingError (FileNotFoundError)  something named by the person is not there
     ├── BadRowError (ValueError)          a source row that cannot become a training row
     ├── CorruptFileError (ValueError)     a shard or checkpoint that is not what was written
     ├── UnsafeFileError (ValueError)      a file that wants to run code when it is read
     ├── NoCheckpointError (RuntimeError)  the run saved before, and nothing of it can be loaded
     ├── UnsavedError (OSError)            no checkpoint could be written for too long
     ├── FencedError (RuntimeError)        a newer attempt has taken the run over
     ├── NonFiniteError (ArithmeticError)  the loss stays infinite or not a number
     ├── DrillError (RuntimeError)         a drill's warning does not reach the ranks
     └── SlurmError (OSError)              Slurm refuses, or does not answer
"""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """Return the sentence that a message ends with where a package of an extra is missing."""
    return f"Install it: pip install -c constraints.txt -e '.[{extra}]'"


class InstructError(Exception):
    """Base of all errors above. The message says what, which value, where, and what to do."""


class ConfigError(InstructError, ValueError):
    """A setting that cannot be used."""


class RunConflictError(ConfigError):
    """A setting that differs from the one the run was begun with and would change its result."""


class MissingError(InstructError, FileNotFoundError):
    """A path, dataset or run that was named and is not there."""


class BadRowError(InstructError, ValueError):
    """A source row that cannot become a training row."""


class CorruptFileError(InstructError, ValueError):
    """A shard or checkpoint that is not what was written."""


class UnsafeFileError(InstructError, ValueError):
    """A file that wants to run code when it is read."""


class NoCheckpointError(InstructError, RuntimeError):
    """The run saved before, and nothing of it can be loaded."""


class UnsavedError(InstructError, OSError):
    """No checkpoint could be written for too long."""


class FencedError(InstructError, RuntimeError):
    """A newer attempt has taken the run over; this one must not write any more."""


class NonFiniteError(InstructError, ArithmeticError):
    """The loss or the gradient stays infinite or not a number."""


class DrillError(InstructError, RuntimeError):
    """A warning that a drill sent does not reach the ranks."""


class SlurmError(InstructError, OSError):
    """Slurm refuses, or does not answer."""


class LateSaveError(OSError):
    """A warned run's last save was refused for as long as it had: started again, unlike the above."""
