"""What can be typed, a file a command. Imports nothing heavy: --help takes a tenth of a second."""
