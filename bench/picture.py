"""
    python -m bench.picture runs_instruct/demo docs/survival.svg

Draws a run from its ledger: steps over time, an attempt a colour, and what hit it. Nothing is drawn
that is not in the ledger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.common import parser
from instruct_core.storage.store import Store
from jobs.ledger import read_ledger

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 900, 300, 60, 30, 40
COLOURS = ("#2563eb", "#059669", "#d97706", "#7c3aed", "#dc2626")
ENDS = {"warned": "warned, all ranks saved", "stopped": "stopped", "finished": "finished"}


def draw(events: list[dict[str, Any]], title: str) -> str:
    """Return the picture of a ledger as SVG."""
    begun, ended = events[0]["utc_seconds"], events[-1]["utc_seconds"]
    last_step = max(event.get("step", 0) for event in events)

    def x(event: dict[str, Any]) -> float:
        share = (event["utc_seconds"] - begun) / max(1e-9, ended - begun)
        return LEFT + share * (WIDTH - LEFT - 130)

    def y(step: int) -> float:
        return HEIGHT - BOTTOM - step / max(1, last_step) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{title}</text>',
        f'<text x="8" y="{y(last_step) + 4:.0f}">step {last_step}</text>',
        f'<text x="8" y="{y(0) + 4:.0f}">step 0</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 8}">0 s</text>',
        f'<text x="{WIDTH - 150}" y="{HEIGHT - 8}">{ended - begun:.0f} s</text>',
        f'<line x1="{LEFT}" y1="{y(0)}" x2="{WIDTH - 130}" y2="{y(0)}" stroke="#999"/>',
    ]
    for attempt in sorted({event["attempt"] for event in events}):
        mine = [event for event in events if event["attempt"] == attempt]
        colour = COLOURS[attempt % len(COLOURS)]
        points = [(x(e), y(e["step"])) for e in mine if "step" in e]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for event in mine:
            if event["event"] == "saved":
                parts.append(
                    f'<circle cx="{x(event):.1f}" cy="{y(event["step"]):.1f}" r="3" fill="{colour}"/>'
                )
        end = next((e for e in reversed(mine) if e["event"] in ENDS), None)
        what = ENDS[end["event"]] if end else "killed: no warning"
        where = end or next(e for e in reversed(mine) if "step" in e)
        parts.append(
            f'<text x="{x(where) + 6:.1f}" y="{y(where["step"]) - 6:.1f}" fill="{colour}">{what}</text>'
        )
        start_x = points[0][0] + 4
        parts.append(
            f'<text x="{start_x:.1f}" y="{y(0) + 16:.0f}" fill="{colour}">attempt {attempt}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("run", help="folder of the run's ledger")
    flags.add_argument("out", type=Path, help="the picture to write")
    typed = flags.parse_args()
    ledger = read_ledger(Store(typed.run))
    ranks = next(event["world_size"] for event in ledger if event["event"] == "started")
    text = f"One run on {ranks} ranks, from its ledger; dots are checkpoints"
    typed.out.write_text(draw(ledger, text))


if __name__ == "__main__":
    main()
