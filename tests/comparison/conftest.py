"""The audits that are compared."""

from tests.compared import audits, configs

__all__ = ["audits", "configs"]
