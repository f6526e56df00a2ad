"""
JSON documents become records: frozen dataclasses, each field of the type that it says.

    manifest = structure(document, Manifest, "Checkpoint .../manifest.json is no manifest of this format")

A field that this version does not know is left out, so that files of a newer version can be read;
`strict` refuses it. Types are never bent: "1" and true are no counts.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar

from instruct_core.errors import CorruptFileError

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")

MAX_REASONS = 3  # that a message gives: what somebody else has written may be wrong throughout
JSON_TYPES: dict[type, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    bool: (bool,),
}


def structure(
    document: Any,
    kind: type[T],
    problem: str,
    strict: bool = False,
    as_it_is: type | None = None,
) -> T:
    """
    Return a document as a record.

    Args:
        document: What JSON held.
        kind: The record's class.
        problem: Which file is what: the message begins with it, and the reasons follow.
        strict: Refuse a field that the class does not have.
        as_it_is: Fields of this type were read already: the document holds them, and they are taken.

    Raises:
        CorruptFileError: A field is missing, or of another type.
    """
    from cattrs import transform_error  # here: flags reach this module, and --help must stay quick

    try:
        return _converter(strict, as_it_is).structure(document, kind)
    except Exception as error:  # cattrs raises groups of errors
        reasons = transform_error(error, format_exception=_reason)
        raise CorruptFileError(f"{problem}: {'; '.join(reasons[:MAX_REASONS])}.") from None


@functools.cache  # a new one would compile anew what reads a class
def _converter(strict: bool, as_it_is: type | None) -> Converter:
    from cattrs import Converter

    converter = Converter(forbid_extra_keys=strict)
    if as_it_is is not None:
        converter.register_structure_hook(as_it_is, lambda value, _: value)
    for kind in JSON_TYPES:
        converter.register_structure_hook(kind, _unbent)
    return converter


def _unbent(value: Any, kind: type) -> Any:
    if not isinstance(value, JSON_TYPES[kind]) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{str(value)[:200]!r} is no {kind.__name__}")
    return kind(value)


def _reason(error: BaseException, kind: type | None) -> str:
    from cattrs.v import format_exception

    return str(error) if type(error) is ValueError else format_exception(error, kind)
