"""`python -m benchmarks.coverage`: how often 95 % intervals cover the truth, printed and written to benchmarks/coverage.json.

Coverage is to lie between 93 and 97 % in ordinary settings. Corners, where counts are tiny or shapes extreme, are measured too, so that
what the intervals cannot do is known. A setting is a corner by what it is, never by what was measured in it.
"""
