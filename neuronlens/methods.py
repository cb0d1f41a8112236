"""Versions of the stages' methods. One is raised when equal inputs give other numbers, so that no old artifact passes for a new one.

They stand apart, one plain number a line, because dvc.yaml depends on them.
"""

PREPARE = 1
EXTRACT = 6
FIT = 6
EVALUATE = 9
REPORT = 9
COMPARE = 2
