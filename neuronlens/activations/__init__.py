"""Reading activations: batches, hooks that pool on the spot, and the store."""
