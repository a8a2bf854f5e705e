"""Training configurations: `common.py` defines every field and its default, the others change a few.

Each file defines `get_config()` and is passed as `--config=experiments/configs/NAME.py`.
"""
