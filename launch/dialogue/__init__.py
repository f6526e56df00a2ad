"""A conversation with a model, typed here or asked over HTTP. Imports runs, cluster, flags, console."""
