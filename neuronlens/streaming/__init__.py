"""What can be known of values that come in batches and are not kept: mergeable in a fixed order, in memory that does not grow with them."""
