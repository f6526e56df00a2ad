"""Work that an array of tasks shares: shards, answers. Imports runs, cluster, flags, console."""
