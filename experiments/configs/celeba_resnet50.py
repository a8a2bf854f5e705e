"""CelebA, our form: ResNet-50, masks from the trunk's own features, 224 pixels, for a GPU or TPU.

    python -m landmarks.precompute --source=celeba --data_dir=CelebA --out_dir=data/celeba
    python -m experiments.train --config=experiments/configs/celeba_resnet50.py \\
        --workdir=runs/celeba_resnet50 --config.data.dir=data/celeba

To start from ImageNet weights (torchvision's or timm's, as safetensors), which need a smaller
learning rate and fewer epochs, add

        --config.model.pretrained=resnet50.safetensors --config.train.num_epochs=10 \\
        --config.optimizer.learning_rate=3e-4

The baseline is the same command with --config.model.name=global.

23.86 M parameters; 4.06 G multiply-adds a face, 1.02 times those of the plain ResNet-50 (counted by
XLA, with `experiments.benchmark step`).

Never run: no accelerator and no full copy of CelebA was available. Public code for ResNets on
CelebA uses SGD, batches of 256, flips, and 5 to 10 epochs from ImageNet weights for about 92 %
(d-li14, face-attribute-prediction). Batch size, flips and those 10 epochs are from there. Ours:
AdamW, because it is insensitive to the scale of the loss (ours is a mean over attributes, theirs a
sum), its learning rate, the cosine decay, 20 epochs from random initialisation, and the rotations,
scales and shifts of `common.py`.
"""

import ml_collections

from experiments.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.data.batch_size = 256
    config.data.image_size = 224
    config.data.num_threads = 8
    config.model.trunk = "resnet50"
    config.model.dtype = "bfloat16"
    config.optimizer.learning_rate = 1e-3
    config.train.num_epochs = 20.0
    return config
