"""
How large what a template asks for will be, told before it is made.

    size_of_percent("%99999999d", 1)                          # 99999999
    size_of_method("a", "center", (10**9,), {}, most=99)            # 1000000000
    SIZES_OF_FILTERS["indent"]("two\\nlines", 10**9)          # 2000000009

An estimate from above, and not far above where sizes are usual: no text of a chat is refused for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from string import Formatter
from typing import Any

WIDTHS = re.compile(r"\d+")
# A directive of `%`: its flags, then what is looked for.
DIRECTIVE = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\*|\d*)(?:\.(\*|\d*))?")
SIZE_OF_NUMBER = 1300  # digits: of the largest that the sandbox lets be made


def weight_of(value: Any, most: int) -> int:
    """Return how much text a value is, counted no further than ``most``; what it holds twice, twice."""
    if isinstance(value, str | bytes):
        return len(value)
    weight, waiting = 0, [value]
    while waiting and weight <= most:
        item = waiting.pop()
        weight += len(item) if isinstance(item, str | bytes) else SIZE_OF_NUMBER
        if isinstance(item, Mapping):
            waiting += [part for pair in item.items() for part in pair]
        elif isinstance(item, list | tuple | set | frozenset):
            weight += len(item)
            waiting += item if weight <= most else ()
    return weight


def size_of_percent(text: str, values: Any) -> int:
    """Return the characters that the widths of `text % values` ask for."""
    numbers = [
        n for n in (values if isinstance(values, tuple) else (values,)) if isinstance(n, int)
    ]
    asked = [word for found in DIRECTIVE.findall(text) for word in found]
    starred = sum(map(abs, numbers)) if "*" in asked else 0
    return starred + _sum(word for word in asked if word != "*")


def size_of_format(text: str, spec_of: Callable[[str], str] = lambda spec: spec) -> int:
    """
    Return the characters that the widths of `text.format(...)` ask for.

    Args:
        spec_of: Fills in what stands in braces inside of a field.
    """
    specs = [spec for _, _, spec, _ in Formatter().parse(text) if spec]
    return sum(_sum(WIDTHS.findall(spec_of(spec) if "{" in spec else spec)) for spec in specs)


def collected(values: Any) -> Any:
    """Return what can be gone through once as a list, which can be measured before."""
    return list(values) if isinstance(values, Iterator) else values


def size_of_method(
    owner: str | bytes, name: str, args: Sequence[Any], named: Mapping[str, Any], most: int
) -> int:
    """Return how long a text becomes that a method of another one makes; see `weight_of`."""
    values = [*args, *named.values()]
    widths = [value for value in values if isinstance(value, int)]
    if name in ("center", "ljust", "rjust", "zfill"):
        return max([len(owner), *widths])
    if name == "expandtabs":
        return len(owner) * max([8, *widths])
    if name == "join" and args:
        return weight_of(args[0], most) + _size_between(args[0], owner)
    if name == "replace" and len(args) > 1:
        return _size_replaced(owner, args[0], args[1])
    if name == "translate" and isinstance(values[0] if values else None, Mapping):
        parts = [len(part) for part in values[0].values() if isinstance(part, str)]
        return len(owner) * max([1, *parts])
    return 0


def _size_between(values: Any, separator: Any = "", *_: Any, **__: Any) -> int:
    return len(str(separator)) * len(values) if isinstance(values, Sized) else 0


def _size_replaced(text: Any, old: Any, new: Any) -> int:
    times = str(text).count(str(old)) if isinstance(text, str) else len(text) + 1
    return len(text) + times * len(str(new))


def _size_indented(text: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    step = width if isinstance(width, int) else len(str(width))
    return len(str(text)) + (1 + str(text).count("\n")) * step


def _size_wrapped(
    text: Any, width: int = 79, _breaks: Any = True, wrapstring: Any = None, *_: Any, **__: Any
) -> int:
    lines = len(str(text)) // max(1, width) + str(text).count("\n")
    return len(str(text)) + 2 * (lines + 1) * len(wrapstring or "\n")


def first_number(_: Any = None, number: Any = 0, *__: Any, **named: Any) -> int:
    """Return the number that a filter is given."""
    return max([n for n in (number, *named.values()) if isinstance(n, int)], default=0)


# By the filter's name, called as it is; those that are not here make nothing longer than what they get.
SIZES_OF_FILTERS: dict[str, Callable[..., int]] = {
    "batch": first_number,
    "center": first_number,
    "format": lambda text, *values, **named: size_of_percent(str(text), values or tuple(named)),
    "indent": _size_indented,
    "join": _size_between,
    "replace": lambda text, old, new, *_, **__: _size_replaced(str(text), old, new),
    "slice": first_number,
    "tojson": lambda value, *_, indent=0, **__: (indent or 0) * weight_of(value, 1 << 16),
    "wordwrap": _size_wrapped,
}
COLLECTS = ("join", "list")  # go through what they get
PRECISION = "round"  # its number is one of digits
WEIGHED = (
    "format",
    "join",
    "list",
    "pprint",
    "string",
    "tojson",
)  # write or copy all that they get


def _sum(words: Iterable[str]) -> int:
    return sum(int(word[:20]) for word in words if word)
