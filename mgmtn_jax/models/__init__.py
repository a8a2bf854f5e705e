"""The networks, one family per file, and the bridge from NNX modules to plain dicts."""
