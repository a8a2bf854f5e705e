"""Parts of `experiments.ablate`: the cells with their configs, and the table of results.

`cells` maps a cell and a seed to config overrides and a folder; `table` reads finished evaluations
and writes the comparison with the first cell.
"""
