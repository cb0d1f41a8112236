"""Which neurons carry a concept, and in which range of their activation."""
