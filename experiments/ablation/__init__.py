"""Parts of `experiments.ablate`: the cells with their configs, and the table of results.

`cells` maps a cell, a seed and a fold to config overrides and a folder; `table` reads finished
evaluations and compares them with those of the first cell; `rendering` writes the comparison.
"""
