"""The ablation: its statistics against a plain loop, its table, and the command, killed once."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import ablate
from experiments.ablation import processes
from experiments.ablation.cells import CELLS, check, claim, finished, parse_seeds, plan
from experiments.ablation.rendering import write
from experiments.ablation.table import LabelledSplit, summarize
from mgmtn_jax.attributes import CELEBA, AttributeSet
from mgmtn_jax.data import pipeline, schema
from mgmtn_jax.evaluation import comparison, metrics
from mgmtn_jax.runs.workdir import run_metadata
from tests.helpers import commands
from tests.helpers.dotted_faces import write_dataset
from tests.helpers.tiny import tiny_config

NUM_FACES, NUM_STEPS = 16, 60


def draw_predictions(seed, num_images=60, num_attributes=4, unknown=0.1):
    """Labels, some unknown, and probabilities of two networks: the second is more accurate."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((num_images, num_attributes)) < 0.4).astype(np.int8)
    wrong = rng.random((2, *labels.shape)) < np.array([0.3, 0.15])[:, None, None]
    probabilities = np.where(wrong, 1 - labels, labels) * 0.8 + 0.1
    labels[rng.random(labels.shape) < unknown] = -1
    return labels, probabilities


def test_the_bootstrap_equals_a_plain_loop():
    labels, probabilities = draw_predictions(0)
    labels[1:, 3] = -1  # an attribute that a third of the resamples never draws
    baseline, other = (comparison.correctness(p, labels) for p in probabilities)
    found = comparison.paired_bootstrap(baseline, other, num_resamples=150, seed=5)

    def mean_accuracy(correct, drawn):
        columns = ([row[a] for row in correct[drawn] if not np.isnan(row[a])] for a in range(4))
        return 100 * np.mean([np.mean(column) for column in columns if column])

    rng, differences = np.random.default_rng(5), []
    for _ in range(150):
        drawn = rng.integers(len(labels), size=len(labels))
        differences.append(mean_accuracy(other, drawn) - mean_accuracy(baseline, drawn))
    every = np.arange(len(labels))
    expected = mean_accuracy(other, every) - mean_accuracy(baseline, every)
    np.testing.assert_allclose(found, [expected, *np.percentile(differences, (2.5, 97.5))])
    # The same statistic as in `metrics`.
    accuracies = [metrics.attribute_metrics(p, labels)["accuracy"].mean() for p in probabilities]
    assert found.mean == pytest.approx(accuracies[1] - accuracies[0])


def test_the_interval_is_zero_for_equal_networks_and_covers_a_known_difference():
    labels, probabilities = draw_predictions(1)
    correct = comparison.correctness(probabilities[0], labels)
    assert comparison.paired_bootstrap(correct, correct) == (0, 0, 0)

    # The true difference is 15 points; a 95 % interval misses it in about one of twenty samples.
    found = []
    for seed in range(200):
        labels, probabilities = draw_predictions(seed, num_images=300)
        pair = (comparison.correctness(p, labels) for p in probabilities)
        found.append(comparison.paired_bootstrap(*pair, num_resamples=200))
    covered = np.mean([low <= 15 <= high for _, low, high in found])
    assert 0.9 <= covered <= 0.99
    assert all(low > 0 for _, low, _ in found)


def test_networks_on_different_images_are_not_compared():
    labels, probabilities = draw_predictions(2)
    correct = comparison.correctness(probabilities[0], labels)
    with pytest.raises(ValueError, match="known labels of the two networks differ"):
        comparison.paired_bootstrap(correct, correct[::-1])
    with pytest.raises(ValueError, match="no known label"):
        comparison.paired_bootstrap(np.full((3, 2), np.nan), np.full((3, 2), np.nan))


WORN = AttributeSet.create(
    ["Hat", "Scarf", "Glove", "Ring"],
    {"hair": ["Hat", "Scarf"], "object": ["Glove", "Ring"]},
)


def write_evaluation(folder, keys, probabilities, mask_iou=None):
    """Writes the output of `experiments.evaluate`, as far as the table needs it."""
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"mask_miou": mask_iou or {}}))
    with (folder / "predictions.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["key", *WORN.names])
        writer.writerows([key, *row] for key, row in zip(keys, probabilities, strict=True))
    return folder


def accuracy(probabilities, labels, attributes=slice(None)):
    return metrics.attribute_metrics(probabilities, labels)["accuracy"][attributes].mean()


def test_the_table_averages_seeds_and_compares_with_the_first_cell(tmp_path):
    labels, (weak, strong) = draw_predictions(3)
    _, (weaker, _) = draw_predictions(4)
    weaker = np.where(labels >= 0, weaker, weak)
    keys = [f"face, {i}" for i in range(len(labels))]
    ious = {"hair": 0.9, "ear": 0.7}
    folders = {
        "global": [
            [write_evaluation(tmp_path / "a", keys, weak)],
            [write_evaluation(tmp_path / "b", keys, weaker)],
        ],
        "+AML+G2FF": [[write_evaluation(tmp_path / "c", keys, strong, ious)]],
    }
    split = LabelledSplit(keys, labels, np.arange(len(keys)) // 2, WORN)
    rows, num_faces, num_persons = summarize(folders, split)
    assert (num_faces, num_persons) == (60, 30)
    baseline, other = rows

    accuracies = [accuracy(p, labels) for p in (weak, weaker)]
    assert baseline.accuracy == pytest.approx(np.mean(accuracies))
    assert baseline.deviation == pytest.approx(abs(accuracies[0] - accuracies[1]) / np.sqrt(2))
    assert (baseline.difference, other.deviation) == (None, None)
    assert other.difference.mean == pytest.approx(other.accuracy - baseline.accuracy)
    assert other.difference.low < other.difference.mean < other.difference.high
    hair = [accuracy(p, labels, slice(2)) for p in (weak, weaker)]
    assert baseline.per_group["hair"] == pytest.approx(np.mean(hair))
    error = metrics.attribute_metrics(strong, labels)["calibration_error"].mean()
    assert other.calibration_error == pytest.approx(error)
    assert (other.mask_iou, other.mean_mask_iou) == (ious, pytest.approx(0.8))
    assert baseline.mean_mask_iou is None

    write(tmp_path, rows, title="Ablation", provenance={"Command": "`python`"})
    with (tmp_path / "ablation.csv").open() as file:
        fields = list(csv.DictReader(file))
    assert [row["difference"] for row in fields] == ["", f"{other.difference.mean:.4f}"]
    assert [row["lowest_mask_iou"] for row in fields] == ["", "0.7"]
    mean, low, high = other.difference
    text = (tmp_path / "ablation.md").read_text()
    assert f"| {mean:+.2f} [{low:+.2f}, {high:+.2f}] | 0.800, ear 0.700 |" in text
    assert "+AML+G2FF" in (tmp_path / "ablation.svg").read_text()

    with pytest.raises(ValueError, match="other faces"):
        summarize(folders, split._replace(keys=[*keys[1:], "another"]))


def test_folds_are_pooled_whatever_their_order(tmp_path):
    labels, (weak, strong) = draw_predictions(5)
    keys = [f"{i}" for i in range(len(labels))]
    split = LabelledSplit(keys, labels, np.arange(len(keys)), WORN)

    def write_parts(name, probabilities, parts):
        return [
            write_evaluation(
                tmp_path / f"{name}-{k}", [keys[i] for i in part], probabilities[part], {"ear": iou}
            )
            for k, (part, iou) in enumerate(zip(parts, (0.5, 0.7), strict=True))
        ]

    parts = np.split(np.random.default_rng(0).permutation(len(keys)), [25])
    folds = {"global": [write_parts("a", weak, parts)], "+AML": [write_parts("b", strong, parts)]}
    whole = {
        "global": [[write_evaluation(tmp_path / "a", keys, weak)]],
        "+AML": [[write_evaluation(tmp_path / "b", keys, strong, {"ear": 0.6})]],
    }
    expected = summarize(whole, split)
    found = summarize(folds, split)
    assert found.rows[1] == dataclasses.replace(
        expected.rows[1], mask_iou={"ear": pytest.approx(0.6)}
    )
    # One fold is a table of its faces; another one in another cell is not compared with it.
    first = {cell: [parts[:1] for parts in seeds] for cell, seeds in folds.items()}
    assert summarize(first, split).num_faces == 25
    with pytest.raises(ValueError, match="other faces"):
        summarize(first | {"+AML": [folds["+AML"][0][1:]]}, split)


def test_persons_are_drawn_with_all_their_images():
    labels, probabilities = draw_predictions(6)
    once = [comparison.correctness(p, labels) for p in probabilities]
    # Three photographs of everybody say no more than one.
    thrice = [np.repeat(correct, 3, axis=0) for correct in once]
    persons = np.repeat(np.random.default_rng(0).permutation(len(labels)), 3)
    whole = comparison.paired_bootstrap(*once)
    by_image = comparison.paired_bootstrap(*thrice)
    by_person = comparison.paired_bootstrap(*thrice, persons=persons)
    assert by_person.mean == pytest.approx(whole.mean)
    width = whole.high - whole.low
    assert by_person.high - by_person.low == pytest.approx(width, rel=0.1)
    assert by_image.high - by_image.low == pytest.approx(width / np.sqrt(3), rel=0.1)
    np.testing.assert_array_equal(
        comparison.paired_bootstrap(*once, persons=np.arange(len(labels))), whole
    )


def test_every_cell_has_its_seeds_and_runs_are_ordered_by_seed():
    seeds = parse_seeds(["global", "uniform", "+AML+G2FF"], ["1", "+AML+G2FF:2"])
    runs = plan(Path("out"), seeds, 7, "validation")
    assert [str(run.workdir) for run in runs] == [
        "out/global/seed-7",
        "out/uniform/seed-7",
        "out/aml-g2ff/seed-7",
        "out/aml-g2ff/seed-8",
    ]
    assert runs[1].overrides["model.masks"] == "uniform"
    assert runs[1].evaluation == Path("out/uniform/seed-7/validation")
    for wrong in (["global:2"], ["0"], ["1.5"], ["1", "glabal:2"]):
        with pytest.raises(
            ValueError,
            match=r"expected a whole number|no cell 'glabal' among .*did you mean global",
        ):
            parse_seeds(["global", "uniform"], wrong)


def test_each_fold_is_trained_without_its_faces_and_with_a_seed_of_its_own():
    seeds = parse_seeds(["global", "model.fusion=add;data.image_size=64"], ["1"])
    runs = plan(Path("out"), seeds, 7, "train+validation", num_folds=3)
    assert [(run.cell, run.seed) for run in runs] == [
        (cell, seed) for seed in (7, 8, 9) for cell in seeds
    ]
    run = runs[3]
    assert run.evaluation == (
        Path("out/model.fusion=add;data.image_size=64/fold-2of3-seed-8/train+validation@2of3")
    )
    assert run.overrides == {
        "model.fusion": "add",
        "data.image_size": "64",
        "data.train_split": "train+validation@not2of3",
        "data.validation_split": "train+validation@2of3",
        "train.seed": 8,
    }
    twice = plan(Path("out"), {"global": 2}, 7, "train", num_folds=3)
    assert [run.seed for run in twice] == [7, 8, 9, 10, 11, 12]


def test_any_field_is_a_cell():
    check(tiny_config(), CELEBA, ["model.fusion=add", "evaluation.mirror=true;train.ema=0.9"])
    for cell, problem in {
        "model.fusoin=add": r"no config field model\.fusoin.*did you mean model\.fusion",
        "model=add": "no config field model",
        "data.batch_size=many": "data.batch_size=many is not of the type of",
        "evaluation.mirror=1": "evaluation.mirror=1 is not of the type of False",
        "model.fusion=sum": "model.fusion='sum' is not one of",
        "=add": "there is no cell '=add'",
    }.items():
        with pytest.raises(ValueError, match=problem):
            check(tiny_config(), CELEBA, [cell])


def test_unfinished_folds_are_left_out_of_the_table(tmp_path):
    runs = plan(tmp_path, {"global": 1, "+AML": 1}, 0, "train", num_folds=2)
    assert finished(runs) == ({}, [])

    def finish(*numbers):
        for number in numbers:
            runs[number].evaluation.mkdir(parents=True)

    finish(0)  # Fold 1 of global: a table of one row.
    assert finished(runs) == ({"global": [[runs[0].evaluation]]}, ["train@1of2"])
    finish(2)  # Fold 2 of global.
    assert finished(runs)[1] == ["train@1of2", "train@2of2"]
    finish(1)  # Fold 1 of +AML, which is now compared on this fold.
    found, splits = finished(runs)
    assert splits == ["train@1of2"]
    assert found == {"global": [[runs[0].evaluation]], "+AML": [[runs[1].evaluation]]}


def test_folds_are_trained_and_evaluated_on_other_persons(tmp_path, monkeypatch):
    """The whole command, with trainings that only note what they were asked for."""
    data, out = tmp_path / "data", tmp_path / "out"
    write_dataset(data, NUM_FACES)
    config = tiny_config()
    config.data.dir, config.train.num_epochs = str(data), 2.0
    trained = []

    def call(arguments):
        given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments[1:])
        if arguments[0] == "experiments.train":
            trained.append(given)
            return 0
        keys = pipeline.split_keys(given["data_dir"], given["split"])
        known = pipeline.split_keys(data, trained[-1]["config.data.train_split"])
        assert sorted(known + keys) == sorted(pipeline.split_keys(data, "train"))
        assert int(given["step"]) == len(known) * 2 // config.data.batch_size
        Path(given["out"]).mkdir(parents=True)
        names = schema.load_attribute_set(data).names
        with (Path(given["out"]) / "predictions.csv").open("w") as file:
            writer = csv.writer(file)
            writer.writerow(["key", *names])
            writer.writerows([key, *[0.5] * len(names)] for key in keys)
        (Path(given["out"]) / "metrics.json").write_text('{"mask_miou": {}}')
        return 0

    monkeypatch.setattr(processes, "call", call)
    ablate.ablate(config, [], out, {"global": 1, "+AML": 1}, "train", num_folds=4)
    assert [given["config.train.seed"] for given in trained] == list("00112233")
    text = (out / "ablation.md").read_text()
    assert f"{NUM_FACES} faces of {NUM_FACES} persons" in text
    assert "8 of 8 runs" in text
    ablate.ablate(config, [], out, {"global": 1, "+AML": 1}, "train", num_folds=4)
    assert len(trained) == 8
    with pytest.raises(ValueError, match=r"16 persons, too few for 17 folds"):
        ablate.ablate(config, [], tmp_path / "other", {"global": 1}, "train", num_folds=17)
    with pytest.raises(ValueError, match="at least 2 folds"):
        ablate.ablate(config, [], tmp_path / "other", {"global": 1}, "train", num_folds=1)
    assert not (tmp_path / "other").exists()


def test_all_cells_of_a_config_build_and_a_reduced_config_is_rejected():
    check(tiny_config(mask_training="joint"), CELEBA, CELLS)
    for part in CELLS.values():
        config = tiny_config()
        config.update_from_flattened_dict(part)
        if part:
            with pytest.raises(ValueError, match="starts from the full network"):
                check(config, CELEBA, CELLS)


def test_a_folder_belongs_to_one_config(tmp_path):
    metadata = run_metadata(tiny_config(), CELEBA, 100)
    claim(tmp_path, metadata)
    claim(tmp_path, metadata)
    other = run_metadata(tiny_config(width=16), CELEBA, 100)
    with pytest.raises(ValueError, match=r"another ablation: model\.width is 8 there and 16 here$"):
        claim(tmp_path, other)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command without its cells, and its output folder."""
    folder = tmp_path_factory.mktemp("ablation")
    write_dataset(folder / "data", NUM_FACES)
    arguments = [
        "--config=experiments/configs/demo.py",
        f"--config.data.dir={folder / 'data'}",
        "--config.data.validation_split=train",
        "--config.data.image_size=32",
        "--config.data.batch_size=8",
        "--config.model.trunk=stub",
        "--config.model.width=4",
        f"--config.train.num_steps={NUM_STEPS}",
        "--config.train.log_every=1",
        "--config.train.evaluate_every_epochs=0",
        "--seeds=1",
        "--split=train",
        f"--out={folder / 'out'}",
    ]
    return ["tests.helpers.with_forks", "experiments.ablate", *arguments], folder / "out"


@pytest.fixture(scope="module")
def environment():
    return commands.environment()


def test_ctrl_c_ends_a_child_with_one_sigterm(monkeypatch, request):
    assert processes.call(["timeit", "--number=1"]) == 0
    assert processes.call(["timeit", "--no-such-flag"]) == 2

    children, popen = [], subprocess.Popen

    def start_and_interrupt(*arguments, **options):
        children.append(popen(*arguments, **options))
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
        return children[0]

    monkeypatch.setattr(subprocess, "Popen", start_and_interrupt)
    # A shell starts what runs in its background with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt):
        processes.call(["timeit", "import time; time.sleep(10)"])
    assert children[0].returncode == -signal.SIGTERM


def test_the_command_stops_resumes_and_survives_a_failed_run(command, environment, tmp_path):
    arguments, out = command

    with (tmp_path / "log").open("w") as file:
        process = commands.fork([*arguments, "--cells=global"], environment, file, file)
    deadline = time.monotonic() + 120
    rows = out / "global" / "seed-0" / "metrics.jsonl"
    while not (rows.exists() and rows.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 1
    log = (tmp_path / "log").read_text()
    assert log.endswith("stopped; run the same command again to resume\n")
    assert "Traceback" not in log

    # The other cell's training fails, because its folder holds another run.
    taken = json.loads((out / "global/seed-0/config.json").read_text())
    (out / "aml/seed-0").mkdir(parents=True)
    (out / "aml/seed-0/config.json").write_text(json.dumps(taken))
    result = commands.run([*arguments, "--cells=+AML,global"], environment, status=1)
    assert result.stderr.splitlines()[-1].startswith(
        f"error: 1 of 2 runs failed: {out}/aml/seed-0;"
    )
    log = result.stderr
    cells = [line.split("] ")[1] for line in log.splitlines() if "] cell " in line]
    assert cells == [
        "cell 1 of 2: +AML, seed-0",
        "cell 1 of 2: +AML, seed-0 failed; see its log above",
        "cell 2 of 2: global, seed-0",
    ]
    assert f"to {NUM_STEPS}" in log
    assert "steps 0 to" not in log
    assert not (out / "ablation.md").exists(), "there is no baseline to compare with"

    again = commands.run([*arguments, "--cells=global"], environment)
    assert "cell 1 of 1: global, seed-0 is finished" in again.stderr
    assert "experiments.train" not in again.stderr
    accuracy = json.loads((out / "global/seed-0/train/metrics.json").read_text())["mean_accuracy"]
    assert f"| global | 1 | {accuracy:.2f} |" in (out / "ablation.md").read_text()
