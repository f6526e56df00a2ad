"""A model before and after training, as a report. Imports runs, cluster, flags, console."""
