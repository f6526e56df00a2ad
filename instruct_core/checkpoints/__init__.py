"""Steps of a run in a store: written, committed, verified, loaded, removed. Imports storage."""
