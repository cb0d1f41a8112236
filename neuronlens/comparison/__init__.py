"""Two audits of the same rows: what changed between their checkpoints, and what of it other rows would show, too."""

COMPARISON, TRANSFER = "comparison.json", "transfer.json"
CHANGES = "changes.parquet"
SCHEMA_VERSION = 2  # of comparison.json
