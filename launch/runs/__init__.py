"""What a run is, to every command: places, status, checkpoints. Imports cluster, flags, console."""
