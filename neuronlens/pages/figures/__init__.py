"""Kinds of chart, each a function from numbers to a Figure."""
