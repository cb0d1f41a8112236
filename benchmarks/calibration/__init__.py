"""`python -m benchmarks.calibration`: how often gates are wrong, printed, kept in benchmarks/calibration.json, told in docs/reliability.md.

A hundred times rows are drawn anew from the source of the example's text, and its classifier is audited on them: as it is, saved again in
half precision, and with noise on its weights that costs it a known part of its accuracy. Nothing is true of one draw that is not true of
another, so the mean over all draws is the truth, and a gate that stands right at it is as likely to be wrong as any can be.
"""
