"""Measurements behind `experiments.benchmark`: input pipeline, landmark stage, step, prediction.

Each module times one part beside a plain alternative and returns dictionaries, one for each line
of JSON that the command prints.
"""
