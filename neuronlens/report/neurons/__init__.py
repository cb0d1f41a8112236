"""One neuron: its card, and what masking it alone does."""
