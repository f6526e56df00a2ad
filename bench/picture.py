"""
    python -m bench.picture runs_instruct/demo docs/survival.svg

Draws a run from its ledger: steps over time, an attempt a colour, and what hit it. Nothing is drawn
that is not in the ledger.
"""

from __future__ import annotations

from pathlib import Path

from bench.common import parser
from instruct_core.events import Saved
from instruct_core.storage.store import Store
from jobs.events import Finished, Started, Stopped, Warned
from jobs.ledger import Entry, read_ledger

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 320, 70, 30, 50, 60
COLOURS = ("#2563eb", "#059669", "#d97706", "#7c3aed", "#dc2626")
ENDS = {
    Warned.name: "warned, all ranks saved",
    Stopped.name: "stopped",
    Finished.name: "finished",
}


def step_of(entry: Entry) -> int | None:
    """Return the step that an entry tells of."""
    return entry.event.facts.get("step")


def draw(entries: list[Entry], title: str) -> str:
    """Return the picture of a ledger as SVG."""
    begun, ended = entries[0].utc_seconds, entries[-1].utc_seconds
    last_step = max(step_of(entry) or 0 for entry in entries)

    def x(entry: Entry) -> float:
        share = (entry.utc_seconds - begun) / max(1e-9, ended - begun)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(step: int) -> float:
        return HEIGHT - BOTTOM - step / max(1, last_step) * (HEIGHT - TOP - BOTTOM)

    axis, right = y(0), WIDTH - RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{title}</text>',
        f'<text x="{LEFT - 8}" y="{y(last_step) + 4:.0f}" text-anchor="end">step {last_step}</text>',
        f'<text x="{LEFT - 8}" y="{axis + 4:.0f}" text-anchor="end">step 0</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 12}">0 s</text>',
        f'<text x="{right}" y="{HEIGHT - 12}" text-anchor="end">{ended - begun:.0f} s</text>',
        f'<line x1="{LEFT}" y1="{axis}" x2="{right}" y2="{axis}" stroke="#999"/>',
    ]
    for attempt in sorted({entry.attempt for entry in entries}):
        mine = [entry for entry in entries if entry.attempt == attempt]
        colour = COLOURS[attempt % len(COLOURS)]
        points = [(x(e), y(step)) for e in mine if (step := step_of(e)) is not None]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for entry in mine:
            if isinstance(entry.event, Saved):
                parts.append(
                    f'<circle cx="{x(entry):.1f}" cy="{y(entry.event.step):.1f}" r="3" fill="{colour}"/>'
                )
        end = next((e for e in reversed(mine) if e.event.name in ENDS), None)
        what = ENDS[end.event.name] if end else "killed: no warning"
        end_x, end_y = points[-1]
        # Steps only grow, so nothing is drawn to the left of an attempt's end and above it.
        parts.append(
            f'<text x="{end_x - 4:.1f}" y="{end_y - 8:.1f}" text-anchor="end" fill="{colour}">'
            f"{what}</text>"
        )
        parts.append(
            f'<text x="{points[0][0]:.1f}" y="{axis + 18:.0f}" fill="{colour}">attempt {attempt}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("run", help="folder of the run's ledger")
    flags.add_argument("out", type=Path, help="the picture to write")
    typed = flags.parse_args()
    ledger = read_ledger(Store(typed.run))
    ranks = next(e.event.world_size for e in ledger if isinstance(e.event, Started))
    text = f"One run on {ranks} ranks, from its ledger; dots are checkpoints"
    typed.out.write_text(draw(ledger, text), encoding="utf-8")


if __name__ == "__main__":
    main()
