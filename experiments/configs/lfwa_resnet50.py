"""LFWA by its official split: ResNet-50 from ImageNet weights, 224 pixels, for a GPU or TPU.

    python -m landmarks.precompute --source=lfwa --data_dir=LFWA --out_dir=data/lfwa
    python -m experiments.train --config=experiments/configs/lfwa_resnet50.py \\
        --workdir=runs/lfwa_resnet50 --config.data.dir=data/lfwa \\
        --config.model.pretrained=resnet50.safetensors

6,263 faces are few for a ResNet-50, so it starts from pretrained weights: torchvision's or timm's,
as safetensors, or the workdir of a run on CelebA (--config.model.pretrained=runs/celeba_resnet50).
With neither, use `lfwa_small.py`. LFWA has no validation split: the test split is evaluated once,
at the end, and must not be used to choose anything.

23.86 M parameters; 4.06 G multiply-adds a face, 1.02 times those of the plain ResNet-50 (counted by
XLA, with `experiments.benchmark step`).

Never run: neither an accelerator nor ImageNet weights were available. All choices are ours, the
recipe by analogy with `celeba_resnet50.py`. Reported: 87.01 % for MGMTN with ResNeSt-50.
"""

import ml_collections

from experiments.configs import celeba_resnet50


def get_config() -> ml_collections.ConfigDict:
    config = celeba_resnet50.get_config()
    config.data.validation_split = "test"
    config.data.batch_size = 64
    config.optimizer.learning_rate = 3e-4
    config.train.num_epochs = 30.0
    config.train.evaluate_every_epochs = 0.0
    return config
