"""Your own photographs and your own attributes: ResNet-18, 112 pixels, on any device.

    python -m landmarks.precompute --source=csv --data_dir=my_faces --out_dir=data/my_faces
    python -m experiments.train --config=experiments/configs/own_faces.py \\
        --workdir=runs/my_faces --config.data.dir=data/my_faces

docs/data.md describes the layout of my_faces/. It needs the splits `train` and `validation`, and no
person may be in both. A few hundred faces are enough to fine-tune a network trained on many: with
--config.model.pretrained=RUN, the workdir of a run with the same trunk and width (on CelebA, say),
also set --config.optimizer.trunk_scale=0.3.

With fewer than 10,000 faces on a CPU, use `small_dlib.py` instead. On LFWA it is more accurate, and
trains faster, than a network of half this width from random initialisation (`lfwa_small.py`). On a
GPU or TPU, add --config.model.dtype=bfloat16 and --config.data.num_threads=8.

11.29 M parameters; 0.44 G multiply-adds a face for 40 attributes (counted by XLA).

Never run at this width: the recipe is ours, and that of `lfwa_small.py`, which has results.
Brightness and contrast are augmented because cameras differ; the effect was not measured.
"""

import ml_collections

from experiments.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.data.cache = "disk"  # photographs are larger than crops and slow to decode
    config.augmentation.brightness = 0.2
    config.augmentation.contrast = 0.2
    return config
