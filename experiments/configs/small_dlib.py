"""Fewer than 10,000 faces on two cores: dlib's face-recognition network, fine-tuned at 112 pixels.

    python -m landmarks.precompute --source=csv --data_dir=LFWA --out_dir=data/lfwa
    python -m experiments.train --config=experiments/configs/small_dlib.py \\
        --workdir=runs/lfwa --config.data.dir=data/lfwa

The trunk's initial weights are installed with the landmark model, so nothing is downloaded.

5.70 M parameters; 0.18 G multiply-adds a face (counted by XLA).

Two folds of LFWA's 6,263 faces, eight epochs: 86.24 %, 0.33 points above
--config.model.fusion=concat (docs/experiments.md, results by folds). The whole recipe, one seed, on
982 validation faces: 87.95 %, mask IoU 0.908, no more than the concat networks below. On the
first fold alone it has 86.28 %; --config.model.group_width=64 has 86.54, 16 has 86.05, and
--config.model.mask_width=8 has 85.89. The whole recipe on the first of five folds, 1,253 faces:
87.78 %; group_width=64 has 87.88.

Measured with --config.model.fusion=concat on two cores of an AMD EPYC server, Python 3.12,
data.cache=ram, huge pages, 13 minutes: 87.82 % mean accuracy on 982 validation faces of persons not
in training (our own split of LFWA), mask IoU 0.906. The baseline, the same command with
--config.model.name=global: 86.78 %. Three seeds each, by experiments.ablate; docs/experiments.md
has its command and how the recipe was found.

With --config.train.num_epochs=5 as well, on 7,957 faces of CelebA at half size: 90.24 % on 995 test
faces (our own split, three seeds), 89.81 % for the baseline.
"""

import ml_collections

from experiments.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.data.batch_size = 32
    config.model.trunk = "dlib_resnet29"
    config.model.pretrained = "dlib"
    config.model.width = 32
    config.model.fusion = "add"
    config.optimizer.trunk_scale = 0.25
    config.train.num_epochs = 14.0
    config.train.ema = 0.995
    config.evaluation.mirror = True
    # So few epochs underfit: dropout and strong augmentation cost accuracy.
    config.model.dropout = 0.0
    config.augmentation.rotation = 4.0
    config.augmentation.scale = 0.05
    config.augmentation.shift = 0.03
    return config
