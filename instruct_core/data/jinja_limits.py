"""
Jinja's sandbox, with an end to what a template can compute.

    environment = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string("{% for a in range(9999) %}{% for b in range(9999) %}...")
    environment.render(template, messages=[...])     # EndlessError: over 100,000 steps

The sandbox alone bounds a range, and not what loops in loops come to. Here every round of a loop, every
item that its filter looks at and every call of a macro is a step, and so is each number of a range; what
is multiplied, joined, filled up to a width or written has a size (see jinja_sizes.py). All are counted
rather than timed: the same row is refused everywhere.

Source: jinja2's docs, "Sandbox" and "Extending" (nodes of the syntax tree).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.visitor import NodeTransformer

from instruct_core.data.jinja_sizes import (
    COLLECTS,
    PRECISION,
    SIZES_OF_FILTERS,
    WEIGHED,
    collected,
    first_number,
    size_of_format,
    size_of_method,
    size_of_percent,
    weight_of,
)

MAX_STEPS = 100_000  # of one text: a chat of a thousand turns takes some thousands
MAX_SIZE = 64 << 20  # of a text or a list that is made: a longer row is refused anyway
MAX_BITS = 4096  # of a number


class EndlessError(jinja2.TemplateRuntimeError):
    """A template computes more than any chat needs."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, bounded; see the module's page. Renders one text at a time."""

    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def __init__(self, **settings: Any) -> None:
        self._num_steps = self._num_made = 0
        super().__init__(**settings, finalize=self._written)
        self.globals["range"] = self._range
        for name in {*SIZES_OF_FILTERS, *WEIGHED, PRECISION}:
            self.add_filter(name, self.filters[name])
        del self.globals["lipsum"], self.filters["random"]  # the same rows make the same text

    def render(self, template: jinja2.Template, **names: Any) -> str:
        """
        Return the text of a template of this environment.

        Raises:
            EndlessError: It takes too many steps, or makes something too large.
        """
        self._num_steps = self._num_made = 0
        return template.render(**names)

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Have a filter, whose answers have a size."""
        size_of, has_first = SIZES_OF_FILTERS.get(name), hasattr(function, "jinja_pass_arg")

        @wraps(function)
        def bounded(*args: Any, **named: Any) -> Any:
            given = list(args[has_first:])
            if name in COLLECTS and given:
                given[0] = collected(given[0])
            self._make(weight_of(given, MAX_SIZE) if name in WEIGHED else 0)
            self._make(size_of(*given, **named) if size_of is not None else 0)
            if name == PRECISION:
                _check(first_number(*given, **named), MAX_BITS)
            return function(*args[:has_first], *given, **named)

        self.filters[name] = bounded

    def step(self, num: int = 1) -> bool:
        """Count a step; compiled templates call this."""
        self._num_steps += num
        if self._num_steps > MAX_STEPS:
            raise EndlessError(f"its loops and macros take more than {MAX_STEPS:,} steps")
        return True

    def joined(self, *values: Any) -> str:
        """Return what `a ~ b` makes; compiled templates call this."""
        _check(sum(weight_of(value, MAX_SIZE) for value in values), MAX_SIZE)
        return "".join(map(str, values))

    def _make(self, size: int) -> None:
        """Count characters before they are made; what does not grow with a chat is made seldom."""
        self._num_made += size
        _check(self._num_made, MAX_SIZE)

    def _written(self, value: Any) -> Any:
        """Return what is written into the text, or handed out by a macro, as it is."""
        self._make(weight_of(value, MAX_SIZE))
        return value

    def call(__self, __context: Any, __obj: Any, *args: Any, **named: Any) -> Any:  # noqa: N805
        """Call what a template calls; named as in the sandbox."""
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str | bytes):
            args = tuple(map(collected, args))
            __self._make(size_of_method(owner, __obj.__name__, args, named, MAX_SIZE))
        return super().call(__context, __obj, *args, **named)

    def wrap_str_format(self, value: Any) -> Any:
        """Return a text's own format or format_map, bounded."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def bounded(*args: Any, **named: Any) -> str:
            fill = SandboxedFormatter(self)
            values = args[0] if value.__name__ == "format_map" and args else named
            self._make(weight_of([args, named], MAX_SIZE))
            self._make(
                size_of_format(value.__self__, lambda spec: fill.vformat(spec, args, values))
            )
            return str(wrapped(*args, **named))

        return bounded

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Return what an operator makes."""
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, Sized) and isinstance(times, int):
                    _check(len(many) * times, MAX_SIZE)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check(left.bit_length() * right, MAX_BITS)
        elif operator == "%" and isinstance(left, str):
            self._make(size_of_percent(left, right) + weight_of(right, MAX_SIZE))
        return _sized(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Counted().visit(tree)
        return tree

    def _range(self, *limits: int) -> range:
        found = range(*limits)
        self.step(len(found[: MAX_STEPS + 1]))  # a longer one may have no length
        return found


class _Counted(NodeTransformer):
    """Lets a template count its steps, and measure what it joins."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802  as jinja calls it
        self.generic_visit(node)
        node.body.insert(0, _step())
        if node.test is not None:
            node.test = nodes.And(_call("step"), node.test)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, _step())
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:  # noqa: N802
        self.generic_visit(node)
        return _call("joined", node.nodes)


def _step() -> nodes.ExprStmt:
    return nodes.ExprStmt(_call("step"))


def _call(name: str, arguments: Sequence[nodes.Expr] = ()) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None)


def _sized(value: Any) -> Any:
    if isinstance(value, int):
        _check(value.bit_length(), MAX_BITS)
    elif isinstance(value, str | list | tuple):
        _check(len(value), MAX_SIZE)
    return value


def _check(size: int, most: int) -> None:
    if size > most:
        raise EndlessError("it makes a text, a list or a number that is too large")
