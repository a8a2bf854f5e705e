"""Commands that a person runs: train, evaluate, predict, serve, ablate, export and benchmark.

Each module with flags is one command, `python -m experiments.NAME`; `configs` holds the training
recipes, and `benchmarks`, `ablation` and `photographs` hold the parts of the larger commands.
"""
