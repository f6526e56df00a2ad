"""Servers that stand in for the object stores of Google and Azure, and a line to them that can be cut."""
