"""The network that comes with the package: its files, and every command that uses it."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from experiments.evaluate import evaluate
from experiments.photographs.faces import FaceFinder
from experiments.photographs.prediction import predict
from landmarks.drawing.faces import draw_face
from mgmtn_jax import pretrained
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.evaluation.predictor import Predictor, restore
from mgmtn_jax.export.artifact import export_pretrained, export_run
from mgmtn_jax.models import build
from mgmtn_jax.models.build import network_builder
from mgmtn_jax.training.initialization import with_pretrained
from tests.helpers import commands
from tests.helpers.dotted_faces import NUM_BITS, write_dataset
from tests.helpers.stubs import StubTrunk, random_variables
from tests.helpers.tiny import tiny_config
from tests.helpers.tiny_workdir import write_workdir

ATTRIBUTES = AttributeSet.create(
    [f"bit_{bit}" for bit in range(NUM_BITS)], {"eyes": ["bit_1"], "mouth": ["bit_0", "bit_2"]}
)


@pytest.fixture(scope="module", autouse=True)
def stub():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.TRUNKS, "stub", StubTrunk)
        yield


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return write_workdir(folder, attribute_set=ATTRIBUTES, trunk="stub")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, workdir):
    folder = tmp_path_factory.mktemp("pretrained")
    export_pretrained(workdir, None, folder)
    return folder


@pytest.fixture
def shipped(folder, monkeypatch):
    """The tiny network in place of the one that comes with the package."""
    monkeypatch.setattr(pretrained, "FOLDER", folder)


def test_float16_changes_no_probability_by_more_than_two_thousandths(folder, workdir):
    faces = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    before, after = Predictor.from_workdir(workdir), Predictor.from_pretrained(folder)
    difference = np.abs(after(faces).probabilities - before(faces).probabilities)
    assert 0 < difference.max() < 2e-3
    assert after.attribute_set == before.attribute_set
    assert (after.step, after.revision) == (before.step, before.revision)
    assert after.config.to_dict() == before.config.to_dict()


def test_the_same_network_gives_the_same_bytes(folder, workdir, tmp_path):
    export_pretrained(workdir, None, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["config.json", "weights.safetensors"]
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    weights = (folder / "weights.safetensors").read_bytes()
    digest = json.loads((folder / "config.json").read_text())["sha256"]
    assert digest == hashlib.sha256(weights).hexdigest()
    dtypes = {tensor.dtype for tensor in safetensors.numpy.load(weights).values()}
    assert dtypes == {np.dtype("float16")}


def test_the_answers_of_one_data_set_are_kept(tmp_path):
    separate = AttributeSet.create(["a/Smiling", "a/Bald", "b/Smiling", "b/Bald"])
    workdir = write_workdir(tmp_path / "run", attribute_set=separate, trunk="stub")
    export_pretrained(workdir, None, tmp_path / "b", ["b"])
    faces = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    whole, kept = Predictor.from_workdir(workdir), Predictor.from_pretrained(tmp_path / "b")
    assert kept.attribute_set.names == ("Smiling", "Bald")
    expected = whole(faces).probabilities[:, 2:]
    np.testing.assert_allclose(kept(faces).probabilities, expected, atol=2e-3)
    with pytest.raises(ValueError, match="cannot join the answers of c"):
        export_pretrained(workdir, None, tmp_path / "c", ["c"])


def test_a_value_beyond_float16_is_named(folder, tmp_path):
    network = pretrained.load(folder)
    network.variables["params"]["aml"]["project"] = {"bias": np.array([1e5], np.float32)}
    with pytest.raises(ValueError, match=r"params/aml/project/bias reaches 100000, which float16"):
        pretrained.save(tmp_path / "out", network)
    assert not (tmp_path / "out").exists()


def _flip(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "damage", "error", "sentence"),
    [
        ("weights.safetensors", None, FileNotFoundError, "weights.safetensors is missing"),
        ("config.json", None, FileNotFoundError, "config.json is missing"),
        ("weights.safetensors", _flip, ValueError, "weights.safetensors is damaged: its SHA-256"),
        ("config.json", lambda data: data[:-9], ValueError, "config.json is damaged"),
        ("config.json", lambda data: b'{"step": 1}', ValueError, "config.json is damaged"),
        ("config.json", lambda data: b"[]", ValueError, "config.json is damaged"),
    ],
)
def test_missing_and_damaged_files_are_named(folder, tmp_path, name, damage, error, sentence):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    if damage is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(error, match=f"{re.escape(str(tmp_path))}/{re.escape(sentence)}") as raised:
        Predictor.from_pretrained(tmp_path)
    assert "\n" not in str(raised.value)


def test_fine_tuning_starts_from_it(shipped, folder):
    config = tiny_config(trunk="stub", pretrained="mgmtn")
    params, batch_stats = random_variables(network_builder(config, ATTRIBUTES), seed=2)
    state = {"step": 0, "params": params, "batch_stats": batch_stats, "opt_state": {}}
    started = with_pretrained(config.model, ATTRIBUTES, state)
    stored = pretrained.load(folder).variables
    for part in ("trunk", "aml", "g2ff", "heads"):
        for name, leaf in _flat(started["params"][part]).items():
            np.testing.assert_array_equal(leaf, _flat(stored["params"][part])[name])
    others = AttributeSet.create(["Freckles"])
    params, batch_stats = random_variables(network_builder(config, others), seed=2)
    started = with_pretrained(
        config.model, others, state | {"params": params, "batch_stats": batch_stats}
    )
    assert started["params"]["heads"] == params["heads"]
    for field, value, sentence in (
        ("width", 16, "model.width is 8 in mgmtn and 16 here"),
        ("trunk", "resnet18", "model.trunk is 'stub' in mgmtn and 'resnet18' here"),
    ):
        config.model[field] = value
        with pytest.raises(ValueError, match=sentence):
            with_pretrained(config.model, ATTRIBUTES, state)
        config = tiny_config(trunk="stub", pretrained="mgmtn")


def _flat(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        name: leaf
        for key, branch in tree.items()
        for name, leaf in _flat(branch, f"{prefix}/{key}").items()
    }


def test_it_is_evaluated_and_exported_as_a_run_is(shipped, workdir, tmp_path):
    write_dataset(tmp_path / "data", 12)
    rows = []
    for name, network in (("run", workdir), ("shipped", None)):
        evaluate(network, tmp_path / "data", tmp_path / name, split="train", num_faces=2)
        with (tmp_path / name / "predictions.csv").open() as file:
            header, *lines = csv.reader(file)
        assert header == ["key", *ATTRIBUTES.names]
        rows.append(np.array([line[1:] for line in lines], float))
    assert rows[0].shape == (12, NUM_BITS)
    np.testing.assert_allclose(rows[0], rows[1], atol=2e-3)
    export_run(None, None, tmp_path / "exported" / "shipped.jax")
    assert "step 3" in (tmp_path / "exported" / "README.md").read_text()
    with pytest.raises(ValueError, match="step 7 of which run"):
        restore(None, 7)


def test_photographs_alone_are_enough(folder, tmp_path):
    """The command on three photographs, one with two faces and one without, and its flags."""
    pair = np.concatenate([draw_face(5, 1)[0], draw_face(6, 2)[0]], axis=1)
    for name, image in (("a", pair), ("b", np.full((90, 90, 3), 127, np.uint8)), ("c", pair)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    first, second = FaceFinder(0, 10**6).from_image(pair, 32)
    env = commands.environment() | {
        "TEST_PRETRAINED": str(folder),
        "PYTHONPATH": str(commands.ROOT),  # for the worker process, which starts in this folder
    }
    command = ["tests.helpers.with_stub", "experiments.predict", "a.png", "b.png", "c.png"]
    command += ["--attributes=bit_2,bit_1", f"--min_score={(first.score + second.score) / 2}"]
    result = commands.run(command, env, cwd=tmp_path)
    assert result.stderr.count(pretrained.LICENCE) == 1
    written = (tmp_path / "predictions" / "predictions.jsonl").read_text()
    assert written == result.stdout
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["file"] for line in lines] == ["a.png", "c.png"]
    probabilities, _ = Predictor.from_pretrained(folder)(first.image[None])
    by_name = dict(zip(ATTRIBUTES.names, probabilities[0].tolist(), strict=True))
    for line in lines:
        assert line["score"] == pytest.approx(first.score, abs=1e-4)
        assert list(line["attributes"]) == ["bit_2", "bit_1"]
        for name, value in line["attributes"].items():
            assert value == pytest.approx(by_name[name], abs=1e-5)
        assert set(line["groups"]) == {"mouth", "eyes"}
        assert (tmp_path / "predictions" / line["overlay"]).exists()


def test_an_unknown_attribute_is_named_before_anything_is_written(folder, tmp_path):
    network = Predictor.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"no attribute 'bit1': did you mean bit_1\?"):
        predict(network, None, [], None, tmp_path / "out", batch_size=4, attributes=["bit1"])
    assert not (tmp_path / "out").exists()


def test_an_evaluation_names_its_network(tmp_path):
    command = ["experiments.evaluate", f"--data_dir={tmp_path}", f"--out={tmp_path}"]
    result = commands.run(command, commands.environment(), status=1)
    assert "error: name either the --workdir of a training run or --pretrained" in result.stderr


CARD = (pretrained.FOLDER / "README.md").read_text()


def test_the_card_states_licence_and_limits():
    text = re.sub(r"\s+", " ", CARD)
    for statement in ("non-commercial", "CC0", "Apache-2.0", "opinion", "must not be used"):
        assert statement in text


def test_the_shipped_network_is_the_one_of_the_card():
    network = pretrained.load()
    weights = (pretrained.FOLDER / "weights.safetensors").read_bytes()
    assert len(weights) < 13e6
    assert hashlib.sha256(weights).hexdigest() in CARD
    assert "TO FILL IN" not in CARD
    shapes = {name: leaf.shape for name, leaf in _flat(network.variables).items()}
    config = Predictor.from_pretrained().config
    params, batch_stats = random_variables(network_builder(config, network.attribute_set))
    expected = _flat({"params": params, "batch_stats": batch_stats})
    assert shapes == {name: leaf.shape for name, leaf in expected.items()}
