"""Prediction on photographs, shared by `experiments.predict` and `experiments.serve`.

`faces` finds and aligns faces without JAX, in worker processes; `prediction` runs the network over
many files; `web_app` answers one upload at a time.
"""
