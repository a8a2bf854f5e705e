"""Prediction and evaluation steps: aligned uint8 faces in, probabilities and masks out."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, UInt8

from mgmtn_jax.data.alignment import FLIP_INDEX
from mgmtn_jax.models import functional
from mgmtn_jax.models.layers import IMAGE_MEAN, IMAGE_STD, Landmarks
from mgmtn_jax.regions import draw_masks


def normalize(images: UInt8[Array, "b s s 3"], dtype: jnp.dtype) -> Float[Array, "b s s 3"]:
    """Normalizes images by the ImageNet mean and standard deviation.

    It runs on the device, because uint8 images take a quarter of the transfer of float32.
    """
    scaled = (images.astype(jnp.float32) - jnp.array(IMAGE_MEAN)) / jnp.array(IMAGE_STD)
    return scaled.astype(dtype)


def _mirror(landmarks: Landmarks, image_size: int) -> Landmarks:
    points = landmarks.points[:, FLIP_INDEX] * jnp.array([-1.0, 1.0])
    return landmarks._replace(points=points + jnp.array([image_size - 1.0, 0.0]))


def make_predict(
    network: functional.Network, config: ml_collections.ConfigDict
) -> Callable[..., tuple[Float[Array, "b a"], Float[Array, "b m m r"] | None]]:
    """Returns `predict(params, batch_stats, faces, landmarks) -> (probabilities, mask_logits)`.

    It takes uint8 faces. Landmarks are used by ground-truth masks (`model.masks="oracle"`) only and
    may be None otherwise. With `evaluation.mirror` the probabilities are the mean over the face and
    its mirror image.
    """
    dtype, image_size = jnp.dtype(config.model.dtype), config.data.image_size

    def predict(
        params: functional.Variables,
        batch_stats: functional.Variables,
        faces: UInt8[Array, "b s s 3"],
        landmarks: Landmarks | None,
    ) -> tuple[Float[Array, "b a"], Float[Array, "b m m r"] | None]:
        images = normalize(faces, dtype)
        outputs, _ = network(params, batch_stats, images, landmarks)
        probabilities = jax.nn.sigmoid(outputs.attribute_logits)
        if config.evaluation.mirror:
            if landmarks is not None:
                landmarks = _mirror(landmarks, image_size)
            mirrored, _ = network(params, batch_stats, images[:, :, ::-1], landmarks)
            probabilities = (probabilities + jax.nn.sigmoid(mirrored.attribute_logits)) / 2
        return probabilities, outputs.mask_logits

    return predict


def make_eval_step(
    network: functional.Network, config: ml_collections.ConfigDict
) -> Callable[[functional.Variables, functional.Variables, dict[str, jax.Array]], dict]:
    """Returns `eval_step(params, batch_stats, batch) -> dict`, a pure function for `jax.jit`.

    The dict has `probabilities` (b, A). For networks that predict masks it also has `intersection`
    and `union` (b, 8): numbers of cells in the intersection and union of predicted and ground-truth
    mask, zero if the landmarks are a guess or the row is padding. `labels`, `index` and `valid` are
    returned unchanged, so that they stay with their rows on every process. The masks themselves
    stay on their devices: gathering those of a large batch takes more memory than a device has.
    """
    predict, image_size = make_predict(network, config), config.data.image_size

    def eval_step(
        params: functional.Variables,
        batch_stats: functional.Variables,
        batch: dict[str, jax.Array],
    ) -> dict[str, jax.Array]:
        landmarks = Landmarks(batch["landmarks"], batch["landmarks_valid"])
        probabilities, mask_logits = predict(params, batch_stats, batch["image"], landmarks)
        result = {"probabilities": probabilities}
        result |= {name: batch[name] for name in ("labels", "index", "valid")}
        if mask_logits is not None:
            predicted = mask_logits > 0
            drawn = draw_masks(batch["landmarks"], image_size, predicted.shape[1])
            counted = batch["landmarks_valid"][:, None]
            result["intersection"] = (predicted & drawn).sum((1, 2)) * counted
            result["union"] = (predicted | drawn).sum((1, 2)) * counted
        return result

    return eval_step
