"""LFWA from random initialisation on two cores: ResNet-18 of half width, 112 pixels, float32.

    python -m landmarks.precompute --source=csv --data_dir=LFWA --out_dir=data/lfwa
    python -m experiments.train --config=experiments/configs/lfwa_small.py \\
        --workdir=runs/lfwa_small --config.data.dir=data/lfwa

2.88 M parameters; 0.13 G multiply-adds a face (counted by XLA).

Measured on two cores of an AMD EPYC server, Python 3.12, 69 minutes beside other work: 87.32 % mean
accuracy on 982 validation faces of persons not in training (our own split), mask IoU 0.897.

The baseline, the same command with --config.model.name=global: 86.64 %. One seed each.
"""

import ml_collections

from experiments.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.model.width = 32
    return config
