"""DVC's room: what is current, the bytes behind it, and sharing both. Nobody else imports it."""

from tasks.versioning.workspace import LOCKS, Decision, Workspace

__all__ = ["LOCKS", "Decision", "Workspace"]
