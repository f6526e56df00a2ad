"""Checkups: what would fail in a queue, told before anything is queued, one finding a line."""
