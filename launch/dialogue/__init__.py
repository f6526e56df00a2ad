"""A conversation with a model. Imports runs, cluster, flags, console."""
