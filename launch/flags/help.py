"""
What --help shows of a dataclass: each default once, and flags that few need only if asked for.

    tyro.cli(Finetune, registry=shown(rare=False))

tyro says of every field which default it has. One of None is chosen later: the text below the field
says how, as in "(default: the one that saved last)".
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from types import UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from instruct_core.recipe import RARE
from launch.flags.values import plain_words


def shown(rare: bool) -> ConstructorRegistry:
    """Return tyro's rules for our dataclasses, with or without the flags that few need."""
    registry = ConstructorRegistry()
    registry.primitive_rule(plain_words)
    being_read: list[type] = []

    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not is_dataclass(info.type) or info.type in being_read:
            return None  # tyro's own rule reads it
        being_read.append(info.type)
        spec = registry.get_struct_spec(info)
        being_read.remove(info.type)
        assert isinstance(spec, StructConstructorSpec)
        return replace(spec, fields=tuple(_shown_field(each, rare) for each in spec.fields))

    registry.struct_rule(rule)
    return registry


def fields_of(flags: type[Any]) -> Iterator[tuple[str, Any]]:
    """Yield name and annotation of every flag of a dataclass, and of those in it."""
    for name, hint in get_type_hints(flags, include_extras=True).items():
        kind = getattr(hint, "__origin__", hint)
        if is_dataclass(kind):
            yield from fields_of(cast("type[Any]", kind))
        else:
            yield name, hint


def texts_of(flags: Any) -> Iterator[tuple[str, bool, str]]:
    """
    Yield name, whether it is of a path or URL, and word of each text of a dataclass and those in it.

    Words without a flag are left out: they are names, which have rules of their own.
    """
    hints = get_type_hints(type(flags), include_extras=True)
    for field in fields(flags):
        value = getattr(flags, field.name)
        if is_dataclass(value):
            yield from texts_of(value)
            continue
        about = getattr(hints[field.name], "__metadata__", ())
        if tyro.conf.Positional in about:
            continue
        is_place = any(getattr(each, "metavar", None) == "PATH" for each in about)
        for word in value if isinstance(value, tuple) else (value,):
            if isinstance(word, str):
                yield field.name, is_place, word


def is_rare(hint: Any) -> bool:
    """Tell whether a flag is one that few need."""
    return RARE in getattr(hint, "__metadata__", ())


def description(flags: type[Any], program: str, usage: str | None) -> str:
    """Return what a dataclass says of itself, then the lines of `usage` that begin with `program`."""
    lines = [line.strip() for line in (usage or "").splitlines()]
    examples = [f"  {line}" for line in lines if f"{line} ".startswith(f"{program} ")]
    return inspect.cleandoc(flags.__doc__ or "") + "\n\n" + "\n".join(examples)


def _shown_field(spec: StructFieldSpec, rare: bool) -> StructFieldSpec:
    text = spec.helptext
    kind: Any = Annotated[_older(spec.type), tyro.conf.arg(help_behavior_hint=_default_in_words)]
    if is_rare(kind) and not rare:
        kind = Annotated[kind, tyro.conf.Suppress]
    return replace(
        spec,
        type=kind,
        helptext=lambda: " ".join(((text() if callable(text) else text) or "").split()),
    )


def _older(kind: Any) -> Any:
    """Return a type with Union for |: to judge that one tyro loads typeguard, which loads asyncio."""
    if get_origin(kind) is Annotated:
        inner, *about = get_args(kind)
        return Annotated[(_older(inner), *about)]
    return Union[get_args(kind)] if isinstance(kind, UnionType) else kind  # noqa: UP007


def _default_in_words(default: str) -> str:
    """Return what is said of a default; one that is chosen later is told by the field's own text."""
    if default in ("None", "False", "", "''"):
        return ""
    return "(default: yes)" if default == "True" else f"(default: {default})"
