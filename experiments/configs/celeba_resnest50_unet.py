"""CelebA, the reported form of MGMTN: ResNeSt-50, a U-Net of width 64 on the image, 227 pixels.

    python -m landmarks.precompute --source=celeba --data_dir=CelebA --out_dir=data/celeba
    python -m experiments.train --config=experiments/configs/celeba_resnest50_unet.py \\
        --workdir=runs/celeba_resnest50_unet --config.data.dir=data/celeba

To start from ImageNet weights (timm's resnest50d, as safetensors), add

        --config.model.pretrained=resnest50d.safetensors --config.train.num_epochs=10 \\
        --config.optimizer.learning_rate=3e-4

54.62 M parameters; 41.76 G multiply-adds a face, ten times those of `celeba_resnet50.py` (counted
by XLA, with `experiments.benchmark step`). If memory runs out, add --config.train.accumulate=4.

Never run: no accelerator and no full copy of CelebA was available. Reported (by reviews of the
paper, not checked against it): trunk, U-Net, one mask for each of eight groups, 227 pixels,
features of strides 8, 16 and 32, and 92.30 % mean accuracy. Ours, because not known: everything
else, such as the U-Net's width, fusion, losses and the recipe (that of `celeba_resnet50.py`).
Reported are masks from FaRL's 98 landmarks; here regions drawn from dlib's 68 landmarks are the
ground-truth masks. The U-Net shares no layer with the trunk, so training both at once
(stop_gradient) equals training each by itself.
"""

import ml_collections

from experiments.configs import celeba_resnet50


def get_config() -> ml_collections.ConfigDict:
    config = celeba_resnet50.get_config()
    config.data.image_size = 227
    config.model.trunk = "resnest50d"
    config.model.masks = "unet"
    config.model.mask_width = 64
    return config
