"""A row that stands twice is in one split; every set of two texts or more has both splits."""

from __future__ import annotations

import pytest

from instruct_core.data.split import Texts, in_validation


def split_of(texts: list[str]) -> tuple[list[str], list[str], int]:
    """Return the texts to train on, those to validate with, and how many are copies."""
    hashed = Texts()
    for text in texts:
        hashed.add(text)
    drawn = hashed.draw()
    is_val = in_validation(texts, drawn.hashes)
    train = [text for text, val in zip(texts, is_val, strict=True) if not val]
    return (
        train,
        [text for text, val in zip(texts, is_val, strict=True) if val],
        drawn.num_duplicates,
    )


@pytest.mark.parametrize("copies", [1, 2, 3, 7])
def test_copies_of_a_row_are_in_one_split(copies: int) -> None:
    train, val, num_duplicates = split_of([f"text {n}" for n in range(1000)] * copies)

    assert not set(train) & set(val)
    assert num_duplicates == 1000 * (copies - 1)
    assert abs(len(val) - 50 * copies) < copies


@pytest.mark.parametrize("num_rows", [2, 3, 19, 20, 21, 100, 777])
def test_five_percent_validate_and_at_least_one(num_rows: int) -> None:
    train, val, _ = split_of([f"text {n}" for n in range(num_rows)])

    assert len(val) == max(1, round(0.05 * num_rows))
    assert len(train) + len(val) == num_rows


@pytest.mark.parametrize("often", range(8))
def test_text_that_stands_often_does_not_take_a_split_for_itself(often: int) -> None:
    train, val, _ = split_of([f"text {often}"] * 900 + [f"text {n}" for n in range(8, 108)])

    assert len(val) in range(40, 61)
    assert len(set(train)) > 40


@pytest.mark.parametrize("often", ["a", "b", "c"])
def test_two_texts_are_enough_for_both_splits(often: str) -> None:
    train, val, _ = split_of([often] * 500 + ["another"])

    assert (set(train), set(val)) == ({often}, {"another"})


@pytest.mark.parametrize("texts", [[], ["a"], ["a"] * 40])
def test_one_text_alone_is_for_training(texts: list[str]) -> None:
    train, val, num_duplicates = split_of(texts)

    assert (train, val) == (texts, [])
    assert num_duplicates == max(0, len(texts) - 1)


def test_split_knows_no_place() -> None:
    texts = [f"text {n}" for n in range(300)]

    assert sorted(split_of(texts)[1]) == sorted(split_of(texts[::-1])[1])


def test_row_that_is_left_out_validates_nothing() -> None:
    assert in_validation([None, None], ["0" * 16, "f" * 16]).tolist() == [False, False]
