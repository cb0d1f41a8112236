"""Prefect tasks: each a few lines around a function of the library."""
