"""Your own photographs and your own attributes: ResNet-18, 112 pixels, on whatever device there is.

    python -m landmarks.precompute --source=csv --data_dir=my_faces --out_dir=data/my_faces
    python -m experiments.train --config=experiments/configs/own_faces.py \\
        --workdir=runs/my_faces --config.data.dir=data/my_faces

docs/data.md says how my_faces/ looks. It needs a split `train` and a split `validation`, with every
person in one of them only. A few hundred faces are enough to fine-tune what has been learned from
many: with --config.model.pretrained=RUN, the workdir of a training with the same trunk and width
(on CelebA, say), also take --config.optimizer.trunk_scale=0.3.

Less than 10,000 faces on a CPU: take `small_dlib.py` in its place. On LFWA it is more accurate than
half this width from scratch (`lfwa_small.py`), and takes less time. On a GPU or TPU:
--config.model.dtype=bfloat16 and --config.data.num_threads=8.

11.29 M parameters; 0.44 G multiply-adds a face for 40 attributes (XLA's count).

Never run at this width: the recipe is that of `lfwa_small.py`, where the figures are, and ours.
Brightness and contrast vary because one's own cameras do; whether that pays was not measured.
"""

import ml_collections

from experiments.configs import common


def get_config() -> ml_collections.ConfigDict:
    config = common.get_config()
    config.data.cache = "disk"  # photographs are larger than crops, and slow to decode every time
    config.augmentation.brightness = 0.2
    config.augmentation.contrast = 0.2
    return config
