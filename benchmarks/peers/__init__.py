"""Extraction by other tools, each in an environment of its own: `make bench-peers` runs them all."""
