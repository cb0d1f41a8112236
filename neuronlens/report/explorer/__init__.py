"""The explorer: every (site, neuron, concept) of an audit, as compressed columns that a small script of the page reads."""
