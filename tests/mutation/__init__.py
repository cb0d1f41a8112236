"""Mutation testing of ranges, interventions and their evaluation: which changes of the code no test notices."""
