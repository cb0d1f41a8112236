"""What runs when: the audit, and the command line in front of it."""
