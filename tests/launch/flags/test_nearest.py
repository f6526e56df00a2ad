"""Which flag may have been meant: for every flag of every launcher, typed as people mistype them."""

from __future__ import annotations

from typing import Any

import pytest

from instruct_core.recipe import flag_of
from launch.flags.chat import Chat
from launch.flags.doctor import Doctor
from launch.flags.drill import Drill
from launch.flags.evaluate import Evaluate
from launch.flags.finetune import Finetune
from launch.flags.generate import Generate
from launch.flags.help import fields_of
from launch.flags.nearest import nearest
from launch.flags.preprocess import Preprocess

LAUNCHERS = (Chat, Doctor, Drill, Evaluate, Finetune, Generate, Preprocess)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_flag_that_is_mistyped_by_a_letter_or_two_is_found(launcher: type[Any]) -> None:
    known = [name for name, _ in fields_of(launcher)]
    lost = []
    for name in (each for each in known if len(each) > 4):
        middle = len(name) // 2
        for typed in (
            name[:middle] + name[middle + 1 :],
            name[:middle] + name[middle] + name[middle:],
            name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :],
        ):
            if typed not in known and flag_of(name) not in nearest(f"--{typed}", known):
                lost.append((typed, name))

    assert lost == []


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_flag_in_the_singular_or_the_plural_is_the_only_one_that_is_named(
    launcher: type[Any],
) -> None:
    known = [name for name, _ in fields_of(launcher)]

    for name in known:
        typed = name.removesuffix("s") if name.endswith("s") else f"{name}s"
        if typed not in known and typed not in ("source", "shard"):
            assert nearest(f"--{typed}", known) == [flag_of(name)], typed


@pytest.mark.parametrize("typed", ["--", "-", "--é", "--x", "--xyzzy", "--9", "--_"])
def test_nothing_is_guessed_where_nothing_is_like_it(typed: str) -> None:
    assert nearest(typed, [name for name, _ in fields_of(Finetune)]) == []
