"""The networks, one family per file, their weights, and the bridge from NNX to plain dicts."""
