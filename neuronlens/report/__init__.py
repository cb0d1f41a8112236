"""The report: one page for people, one document for programs."""
