"""The network that comes with the package: mgmtn_jax/pretrained/README.md is its card.

    python -m landmarks.precompute --source=csv --data_dir=LFWA --out_dir=data/lfwa
    python -m landmarks.precompute --source=celeba --data_dir=CELEBA --out_dir=data/celeba
    python -m experiments.train --config=experiments/configs/pretrained.py \\
        --workdir=runs/pretrained --config.data.dir=data/lfwa,data/celeba
    python -m experiments.export --workdir=runs/pretrained --format=pretrained \\
        --answers_of=celeba --out=mgmtn_jax/pretrained

5.66 M parameters; 0.18 G multiply-adds a face (counted by XLA, without the second answers).

`small_dlib.py` and its recipe on two data sets, whose labels disagree on words and therefore have
separate answers. The validation and test faces are kept for the figures of the card.
"""

import ml_collections

from experiments.configs import small_dlib


def get_config() -> ml_collections.ConfigDict:
    config = small_dlib.get_config()
    config.data.separate = True
    config.model.fusion = "concat"  # It was trained before `add` was found to be better.
    config.data.cache = "ram"
    config.train.num_epochs = 5.0
    config.train.seed = 1
    config.train.evaluate_every_epochs = 0.0
    return config
