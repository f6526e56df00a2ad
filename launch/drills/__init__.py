"""Drills: one run undisturbed, the same one hit by faults, and whether both end alike, bit for bit."""
