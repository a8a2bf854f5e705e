"""Published weights: every key matches, and features equal timm's for the same weights.

`tests/goldens/make_goldens.py` stored the features that timm's networks compute with
`random_weights`. The weights are not stored but generated again, and pass through a safetensors
file as published ones would.
"""

import json
import pathlib
import re
import types

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from mgmtn_jax.models import functional, imagenet_weights
from mgmtn_jax.models.build import TRUNKS
from mgmtn_jax.models.resnest import ResNeSt
from mgmtn_jax.models.resnet import ResNet
from tests.goldens.random_weights import random_image, random_weights

GOLDENS = pathlib.Path(__file__).parent / "goldens"
WITH_FEATURES = ("resnet18", "resnet50", "resnest50d")


def _trunk(name, width=64):
    # nnx.Rngs counts its draws in an array; traced in flax 0.12.8, each draw takes longer.
    rngs = types.SimpleNamespace(params=lambda: jax.random.key(0))
    return TRUNKS[name](width=width, rngs=rngs)


def _abstract(*args, **kwargs):
    return jax.eval_shape(lambda: functional.init(lambda _: _trunk(*args, **kwargs), 0))


class _TrunkAlone(nnx.Module):
    def __init__(self, name):
        self.trunk = _trunk(name)

    def __call__(self, images, *_, train, **__):
        return self.trunk(images, train=train)


def _golden(name):
    golden = np.load(GOLDENS / f"{name}.npz")
    return golden, {key: tuple(shape) for key, shape in json.loads(str(golden["shapes"])).items()}


@pytest.fixture
def published(tmp_path):
    """Writes a weights file and deletes it after the test: pytest would keep 100 MB of each."""
    path = tmp_path / "published.safetensors"

    def write(shapes):
        safetensors.numpy.save_file(random_weights(shapes), path)
        return path

    yield write
    path.unlink()


# The other trunks are covered by the test of their features.
@pytest.mark.parametrize("name", sorted({*ResNet.blocks, *ResNeSt.blocks} - {*WITH_FEATURES}))
def test_names_and_shapes_equal_the_published_ones(name):
    params, batch_stats = _abstract(name)
    ours = imagenet_weights.published_shapes(params, batch_stats)
    expected = {
        key: shape
        for key, shape in _golden(name)[1].items()
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked")
    }
    assert ours == expected
    assert len(ours) == len(jax.tree.leaves((params, batch_stats)))


@pytest.mark.parametrize("name", WITH_FEATURES)
def test_features_equal_timm(name, published):
    golden, shapes = _golden(name)
    path = published(shapes)
    params, batch_stats = imagenet_weights.load_imagenet(path, *_abstract(name))
    network = functional.create(lambda _: _TrunkAlone(name))
    forward = jax.jit(network, compiler_options={"xla_backend_optimization_level": 0})
    features, _ = forward({"trunk": params}, {"trunk": batch_stats}, random_image())
    for level, feature in enumerate(features, start=2):
        feature = np.asarray(feature)
        sample, mean = golden[f"c{level}"], golden[f"c{level}_mean"]
        step = feature.shape[-1] // sample.shape[-1]
        # The tolerance is relative to the map's standard deviation, and holds for every value.
        np.testing.assert_allclose(
            feature[..., ::step], sample, rtol=1e-4, atol=1e-4 * sample.std()
        )
        np.testing.assert_allclose(feature.mean((0, 1, 2)), mean, rtol=1e-4, atol=1e-4 * mean.std())


def test_all_mismatches_are_listed_in_one_sentence(published):
    _, shapes = _golden("resnet18")
    del shapes["bn1.running_var"], shapes["fc.weight"], shapes["bn1.num_batches_tracked"]
    shapes |= {"layer1.0.conv1.weight": (3, 3, 64, 64), "conv_stem.weight": (3,)}
    path = published(shapes)
    expected = (
        f"{path} does not fit this trunk; missing: bn1.running_var; unexpected: conv_stem.weight; "
        "wrong shape: layer1.0.conv1.weight is (3, 3, 64, 64), expected (64, 64, 3, 3)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        imagenet_weights.load_imagenet(path, *_abstract("resnet18"))


def test_other_widths_and_damaged_files_are_refused(published):
    path = published({"conv1.weight": (64, 3, 7, 7)})
    with pytest.raises(ValueError, match=r"fit trunks of width 64, and model\.width is 32"):
        imagenet_weights.load_imagenet(path, *_abstract("resnest50d", width=32))
    standard = _abstract("resnet18")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is not a safetensors file"):
        imagenet_weights.load_imagenet(path, *standard)
    with pytest.raises(FileNotFoundError, match="absent"):
        imagenet_weights.load_imagenet(path.parent / "absent", *standard)
