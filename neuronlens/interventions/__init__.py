"""Changing activations: operators, and the context manager that applies them to a model and always undoes it."""
