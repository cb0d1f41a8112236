"""`python -m benchmarks.selectivity`: how selectively each method edits, on the example's models, printed and written to two files.

benchmarks/selectivity.json holds every number, benchmarks/selectivity.md the table of docs/findings.md. Each split has labelled rows of
its own, drawn as the example's are and seen by no model before. On each everything is fitted, chosen on validation rows and measured on
test rows, at matched drops of the target (`neuronlens.evaluation.frontier`) and at each family's own best setting
(`neuronlens.evaluation.choice`).

The splits share models and auxiliary text, no row. So the interval of a mean over splits says what other rows would give for these models:
its limits are as far from it as the root of the splits' squared distances to their own, over the number of splits. Of perplexity, whose
documents are the same in each, they are the mean of the splits' own.
"""
