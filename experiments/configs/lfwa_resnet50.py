"""LFWA by its official split: ResNet-50 from ImageNet weights, 224 pixels, for a GPU or TPU.

    python -m landmarks.precompute --source=lfwa --data_dir=LFWA --out_dir=data/lfwa
    python -m experiments.train --config=experiments/configs/lfwa_resnet50.py \\
        --workdir=runs/lfwa_resnet50 --config.data.dir=data/lfwa \\
        --config.model.pretrained=resnet50.safetensors

6,263 faces are few for a ResNet-50. The weights are torchvision's or timm's, as safetensors; the
workdir of a training on CelebA serves too (--config.model.pretrained=runs/celeba_resnet50). With
neither, take `lfwa_small.py`. LFWA has no validation split: its test split is looked at once, at
the end, and no choice may be made by that figure.

23.87 M parameters; 4.10 G multiply-adds a face, 1.03 times the plain ResNet-50 (XLA's count, by
`experiments.benchmark step`).

Never run: we had neither an accelerator nor ImageNet weights. All choices are ours, the recipe by
analogy with `celeba_resnet50.py`; reported is 87.01 % of MGMTN with ResNeSt-50.
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
