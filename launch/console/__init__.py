"""Lines, tables and bars for the person at the terminal. Knows nothing of runs or clusters."""
