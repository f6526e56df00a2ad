"""
    python -m bench.picture runs_instruct/demo docs/survival.svg

Draws a run from its ledger: steps over time, an attempt a colour, and what hit it. Nothing is drawn
that is not in the ledger.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from instruct_core.storage.store import Store
from jobs.ledger import read_ledger

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 320, 70, 30, 50, 60
COLOURS = ("#2563eb", "#059669", "#d97706", "#7c3aed", "#dc2626")
ENDS = {"warned": "warned, all ranks saved", "stopped": "stopped", "finished": "finished"}


def draw(events: list[dict[str, Any]], title: str) -> str:
    """Return the picture of a ledger as SVG."""
    begun, ended = events[0]["utc_seconds"], events[-1]["utc_seconds"]
    last_step = max(event.get("step", 0) for event in events)

    def x(event: dict[str, Any]) -> float:
        share = (event["utc_seconds"] - begun) / max(1e-9, ended - begun)
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


if __name__ == "__main__":
    ledger = read_ledger(Store(sys.argv[1]))
    ranks = next(event["world_size"] for event in ledger if event["event"] == "started")
    text = f"One run on {ranks} ranks, from its ledger; dots are checkpoints"
    Path(sys.argv[2]).write_text(draw(ledger, text))
