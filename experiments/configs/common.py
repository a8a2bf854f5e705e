"""All config fields with their defaults; the other configs change a few of them."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    config.data = data = ml_collections.ConfigDict()
    data.dir = ""  # data set folder, written by landmarks.precompute; several: DIR,DIR
    data.separate = False  # keep attributes of the same name apart, as FOLDER/NAME
    data.weights = ""  # relative frequency of each data set, such as 2,1; by default by size
    data.train_split = "train"  # or a union: train+validation
    data.validation_split = "validation"
    data.batch_size = 64  # global: over all devices of all hosts
    data.image_size = 112  # side of the aligned crop in pixels
    data.num_threads = 2  # threads of each host for reading, decoding and warping
    data.on_corrupt = "raise"  # what to do with a damaged record: raise | skip
    data.cache = "none"  # where decoded faces are cached after the first epoch: none | ram | disk

    config.augmentation = augmentation = ml_collections.ConfigDict()
    augmentation.rotation = 8.0  # largest rotation in degrees, either way
    augmentation.scale = 0.10  # scaled by 1 / (1 + scale) .. 1 + scale
    augmentation.shift = 0.05  # largest shift as a fraction of the side, either way
    augmentation.flip = True  # mirror half of the faces
    augmentation.brightness = 0.0  # see mgmtn_jax.data.augmentation.Augmentation
    augmentation.contrast = 0.0
    augmentation.saturation = 0.0
    augmentation.erase = 0.0  # probability of erasing one rectangle

    config.model = model = ml_collections.ConfigDict()
    model.name = "mgmtn"  # mgmtn | global | global_multiscale: see mgmtn_jax.models.mgmtn
    model.trunk = "resnet18"  # a name of mgmtn_jax.models.build.TRUNKS
    model.pretrained = ""  # initial weights: see mgmtn_jax.training.initialization
    model.width = 64  # channels of the trunk's stem: 64 is the standard network
    model.dtype = "float32"  # of the computation: float32 | bfloat16; parameters stay float32
    model.masks = "fcn"  # fcn | unet | oracle | uniform: see mgmtn_jax.models.aml
    model.mask_training = "stop_gradient"  # stop_gradient | joint, for fcn and unet
    model.mask_grid = "fused"  # fused | finest, for fcn and oracle: see mgmtn_jax.models.aml
    model.mask_width = 32  # channels of the mask decoder, or of a U-Net's first level
    model.fusion = "concat"  # concat | add | attention | none: see mgmtn_jax.models.fusion
    model.group_width = 32  # channels of a group feature at each of three scales (G2FF)
    model.dropout = 0.2  # dropout rate of each head's input

    config.loss = loss = ml_collections.ConfigDict()
    loss.mask_weight = 0.5  # weight of the mask loss relative to the attribute loss

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "adamw"  # adamw | sgd
    optimizer.learning_rate = 2e-3  # peak, after the warm-up and before the cosine decay to zero
    optimizer.trunk_scale = 1.0  # factor on the trunk's learning rate; 0 freezes the trunk
    optimizer.warmup_fraction = 0.1  # fraction of all steps in the linear warm-up
    optimizer.weight_decay = 0.05  # of kernels only
    optimizer.momentum = 0.9  # sgd only
    optimizer.clip_norm = 1.0  # largest global norm of the gradient

    config.train = train = ml_collections.ConfigDict()
    train.num_epochs = 30.0
    train.num_steps = 0  # overrides num_epochs if > 0
    train.accumulate = 1  # parts of a batch that a step processes in turn, to save memory
    train.ema = 0.0  # decay of the running average of the weights, used for evaluation; 0: none
    train.seed = 0  # seed of parameters, order of examples, augmentation and dropout
    train.log_every = 20  # steps between rows of metrics.jsonl
    train.evaluate_every_epochs = 1.0  # epochs between validations; 0: only at the end

    config.evaluation = evaluation = ml_collections.ConfigDict()
    evaluation.mirror = False  # average the predictions for a face and its mirror image

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_steps = 500  # steps between checkpoints, besides the last step
    checkpoint.keep = 2  # number of most recent checkpoints to keep (at least 2)
    checkpoint.keep_best = 1  # number of checkpoints to keep besides, by validation accuracy

    config.mesh = mesh = ml_collections.ConfigDict()
    mesh.data = -1  # devices along the batch axis; -1: all devices divided by fsdp
    mesh.fsdp = 1  # devices that each large parameter is split over

    return config.lock()
