"""The sessions of examples/ go as they are shown; see tests/examples.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples import SESSIONS, masked, played

SHOWN = """Step 60: validation loss 3.1119, 1,967 tokens/s
Step 7 of 60: loss 0.1234, 88 tokens/s
Run r is stopped at step 7. Job: job 12, 2 rows
 results   goodput   0.15   0.24
"""


@pytest.mark.parametrize("session", SESSIONS, ids=lambda path: path.stem)
def test_a_session_prints_what_it_shows(session: Path, tmp_path: Path) -> None:
    shown = session.read_text()

    assert masked(played(shown, tmp_path)) == masked(shown)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("3.1119", "3.2"),
        ("1,967", "88"),
        ("step 7", "step 8"),
        ("job 12", "job 3"),
        (" 2 rows", " 2   rows"),
        (" results   goodput   0.15   0.24\n", ""),
        ("Step 7 of 60: loss 0.1234, 88 tokens/s\n", ""),
    ],
)
def test_what_differs_from_machine_to_machine_is_not_compared(shown: str, printed: str) -> None:
    assert masked(SHOWN.replace(shown, printed)) == masked(SHOWN)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [("Step 60", "Step 61"), ("validation loss", "loss"), ("2 rows", "3 rows"), ("Run r", "Run s")],
)
def test_another_word_or_number_is_another_output(shown: str, printed: str) -> None:
    assert masked(SHOWN.replace(shown, printed)) != masked(SHOWN)
