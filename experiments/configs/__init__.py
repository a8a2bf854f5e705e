"""Training configurations: `common.py` defines every field, the others change some of them.

Each file defines `get_config()` and is passed as `--config=experiments/configs/NAME.py`.
"""
