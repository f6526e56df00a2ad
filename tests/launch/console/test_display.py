"""Tables hold anybody's text, and a program can read them."""

from __future__ import annotations

import pytest
from rich.table import Table

from launch.console.display import age, share_bar, show_table


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5.0, "0 s"), (90.0, "90 s"), (1e300, "over 100 years"), (float("inf"), "over 100 years"),
     (float("nan"), "over 100 years")],
)  # fmt: skip
def test_age_is_short_whatever_two_clocks_say(seconds: float, said: str) -> None:
    assert age(seconds) == said


@pytest.mark.parametrize(
    ("share", "shown"), [(-0.5, "···· 0%"), (0.5, "██·· 50%"), (1e30, "████ 100%")]
)
def test_bar_is_never_longer_than_it_is(share: float, shown: str) -> None:
    assert share_bar(share, width=4) == shown


def test_text_of_a_cell_is_no_markup_and_lines_have_no_padding(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table("run", "note", box=None)
    table.add_row("r", "Read error [/a/pair.cc:553] [bold]closed")
    table.add_row("s", "")

    show_table(table)

    lines = capsys.readouterr().out.splitlines()
    assert "Read error [/a/pair.cc:553] [bold]closed" in lines[1]
    assert lines == [line.rstrip() for line in lines]


def test_table_that_is_wider_than_the_terminal_becomes_lines_that_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    monkeypatch.setenv("COLUMNS", "80")
    table = Table("run", "state", "step", "note", box=None)
    table.add_row("first", "RUNNING", "", "why " * 40)
    table.add_row("second", "PENDING", "3 of 4", "")

    show_table(table)

    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("run first: state RUNNING, note why why")
    assert lines[-1] == "run second: state PENDING, step 3 of 4"


def test_row_is_one_line_however_long_where_a_program_reads_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table("run", "note", box=None)
    table.add_row("r", "why " * 300)

    show_table(table)

    assert len(capsys.readouterr().out.splitlines()) == 2
