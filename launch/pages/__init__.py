"""Pages that need no network: what stands on one, its HTML, its charts. Knows nothing of runs."""
