"""Every field there is, with its default. The other configs start from here and change a few."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    config.data = data = ml_collections.ConfigDict()
    data.dir = ""  # data set folder, as landmarks.precompute writes it
    data.train_split = "train"
    data.validation_split = "validation"
    data.batch_size = 64  # global: of all devices of all hosts together
    data.image_size = 112  # pixels a side of the aligned crop
    data.num_threads = 2  # of this host, for reading, decoding and warping
    data.on_corrupt = "raise"  # a damaged record: raise | skip
    data.cache = "none"  # where decoded faces are kept after the first epoch: none | ram | disk

    config.augmentation = augmentation = ml_collections.ConfigDict()
    augmentation.rotation = 8.0  # degrees either way
    augmentation.scale = 0.10  # size times 1 / (1 + scale) .. 1 + scale
    augmentation.shift = 0.05  # fraction of the side, either way
    augmentation.flip = True  # mirror half of the faces
    augmentation.brightness = 0.0  # see mgmtn_jax.data.augmentation.Augmentation
    augmentation.contrast = 0.0
    augmentation.saturation = 0.0
    augmentation.erase = 0.0  # probability of one painted-over rectangle

    config.model = model = ml_collections.ConfigDict()
    model.name = "mgmtn"  # mgmtn | global | global_multiscale: see mgmtn_jax.models.mgmtn
    model.trunk = "resnet18"  # a name of mgmtn_jax.models.build.TRUNKS
    model.pretrained = ""  # what the trunk starts with: see mgmtn_jax.training.initialization
    model.width = 64  # channels of the stem: 64 is the standard network
    model.dtype = "float32"  # of the computation: float32 | bfloat16; parameters stay float32
    model.masks = "fcn"  # fcn | unet | oracle | uniform: see mgmtn_jax.models.aml
    model.mask_training = "stop_gradient"  # stop_gradient | joint | two_stage, of fcn and unet
    model.mask_width = 32  # channels of the mask decoder; of a U-Net's first level
    model.fusion = "concat"  # concat | add | gated | attention | none: mgmtn_jax.models.fusion
    model.group_width = 32  # channels of a group feature at each of three scales (G2FF)
    model.dropout = 0.2  # share of each head's input that training drops

    config.loss = loss = ml_collections.ConfigDict()
    loss.mask_weight = 0.5  # of the mask loss beside the attribute loss
    loss.mask_only_fraction = 0.3  # of all steps, for the first of two stages

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "adamw"  # adamw | sgd
    optimizer.learning_rate = 2e-3  # peak, after the warm-up and before the cosine decay to zero
    optimizer.trunk_scale = 1.0  # of the learning rate, for the trunk; 0 freezes it
    optimizer.warmup_fraction = 0.1  # of all steps
    optimizer.weight_decay = 0.05  # on kernels only
    optimizer.momentum = 0.9  # sgd only
    optimizer.clip_norm = 1.0  # largest global norm of a gradient

    config.train = train = ml_collections.ConfigDict()
    train.num_epochs = 30.0
    train.num_steps = 0  # instead of num_epochs, if above 0
    train.accumulate = 1  # parts of a batch that a step takes one after the other, to save memory
    train.ema = 0.0  # decay of the running average of the weights, which is evaluated; 0: none
    train.seed = 0  # of parameters, order, augmentation and dropout
    train.log_every = 20  # steps between rows of metrics.jsonl
    train.evaluate_every_epochs = 1.0  # passes over the validation split; 0 only at the end

    config.evaluation = evaluation = ml_collections.ConfigDict()
    evaluation.mirror = False  # average what the network says of a face and of its mirror image

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_steps = 500  # and at the end
    checkpoint.keep = 2  # newest ones, two at least
    checkpoint.keep_best = 1  # besides: those of the best validation accuracy, saved for it

    config.mesh = mesh = ml_collections.ConfigDict()
    mesh.data = -1  # devices along the batch; -1: those that fsdp leaves
    mesh.fsdp = 1  # devices that share each large parameter

    return config.lock()
