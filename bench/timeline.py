"""
    python -m bench.timeline runs_instruct/my-run docs/warning.svg

Draws what happened from a run's first warning to its next step, from its ledger. Nothing is drawn
that is not in the ledger.
"""

from __future__ import annotations

from pathlib import Path

from bench.common import parser
from instruct_core.events import Saved
from instruct_core.storage.store import Store
from jobs.events import Requeued, Resumed, Started, Warned
from jobs.ledger import Entry, read_ledger

WIDTH, HEIGHT, LEFT, RIGHT, LINE = 900, 190, 30, 30, 95
BEFORE, SAVING, WAITING, STARTING, AFTER = "#2563eb", "#d97706", "#9ca3af", "#7c3aed", "#059669"


def moments(entries: list[Entry]) -> list[tuple[float, str, str]]:
    """Return the moments of the first warning: seconds from it, what, and colour of what follows."""
    attempt, warned_at, warned = next(e for e in entries if isinstance(e.event, Warned))[:3]
    assert isinstance(warned, Warned)
    at = warned_at - warned.seconds
    later = [entry for entry in entries if entry.utc_seconds > warned_at]
    started_at = next(e.utc_seconds for e in later if isinstance(e.event, Started))
    _, resumed_at, resumed = next(e for e in later if isinstance(e.event, Resumed))[:3]
    saves = [e for e in entries if isinstance(e.event, Saved) and e.attempt == attempt]
    _, saved_at, saved = saves[-1][:3]
    requeued_at = next(e.utc_seconds for e in entries if isinstance(e.event, Requeued))
    begun = saved_at - saved.facts["seconds"]
    return [
        (0.0, f"{warned.signal}: noted, the step goes on", BEFORE),
        (begun - at, f"all ranks agree on step {warned.step}: save", SAVING),
        (saved_at - at, "manifest written", WAITING),
        (requeued_at - at, "rank 0 asks Slurm why, and requeues", WAITING),
        (started_at - at, "ranks have met, next attempt claimed", STARTING),
        (resumed_at - at, f"resumed at step {resumed.facts['step']}", AFTER),
    ]


def draw(points: list[tuple[float, str, str]]) -> str:
    """Return the moments as SVG: equal places, for they lie between milliseconds and minutes apart."""
    width = (WIDTH - LEFT - RIGHT) / len(points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for number, (seconds, what, colour) in enumerate(points):
        x = LEFT + number * width
        parts += [
            f'<rect x="{x:.0f}" y="{LINE - 4}" width="{width:.0f}" height="8" fill="{colour}"/>',
            f'<circle cx="{x:.0f}" cy="{LINE}" r="6" fill="{colour}"/>',
            f'<text x="{x:.0f}" y="{LINE - 14}" font-weight="bold">{seconds:.2f} s</text>',
        ]
        for row, words in enumerate(_rows(what, 22)):
            parts.append(f'<text x="{x:.0f}" y="{LINE + 24 + 15 * row}">{words}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _rows(text: str, width: int) -> list[str]:
    rows = [""]
    for word in text.split():
        if rows[-1] and len(rows[-1]) + len(word) >= width:
            rows.append("")
        rows[-1] = f"{rows[-1]} {word}".strip()
    return rows


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("run", help="folder of the run's ledger")
    flags.add_argument("out", type=Path, help="the picture to write")
    typed = flags.parse_args()
    try:
        points = moments(read_ledger(Store(typed.run)))
    except StopIteration:
        flags.error(f"the ledger in {typed.run} must have a warning, a requeue and a resume.")
    typed.out.write_text(draw(points), encoding="utf-8")


if __name__ == "__main__":
    main()
