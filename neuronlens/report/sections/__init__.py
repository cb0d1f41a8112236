"""What stands on the page of an audit, section by section."""
