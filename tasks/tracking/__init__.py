"""What was audited and compared, with which outcome, in MLflow: one run for each distinct state of an audit, and one for each comparison.

A state is what its artifacts hold. Noting one again is no new state and leaves nothing behind; a team-mate's first look at it in a store of
his own does. The bytes stay in DVC, whose hashes are tags here. MLflow's registry is read, too, for the models that teams register in it.
"""

from tasks.tracking.audits import find, origin, record, state_key, store_uri
from tasks.tracking.comparisons import record_comparison
from tasks.tracking.registry import registered
from tasks.tracking.store import Recorded, StoreError

__all__ = [
    "Recorded",
    "StoreError",
    "find",
    "origin",
    "record",
    "record_comparison",
    "registered",
    "state_key",
    "store_uri",
]
