"""The ablation: its statistics against a plain loop, its table, and the command, killed once."""

import csv
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.ablation import processes
from experiments.ablation.cells import CELLS, check, claim, parse_seeds, plan
from experiments.ablation.table import LabelledSplit, summarize, write
from mgmtn_jax.attributes import CELEBA
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


def write_evaluation(folder, keys, probabilities, labels):
    """Writes the output of `experiments.evaluate`, as far as the table needs it."""
    folder.mkdir(parents=True)
    values = metrics.attribute_metrics(probabilities, labels)
    summary = {
        "mean_accuracy": values["accuracy"].mean(),
        "mean_balanced_accuracy": values["balanced_accuracy"].mean(),
        "mean_mask_miou": None,
        "per_group": {"hair": {"accuracy": values["accuracy"][:2].mean()}},
    }
    (folder / "metrics.json").write_text(json.dumps(summary))
    with (folder / "predictions.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "Hat", "Scarf", "Glove", "Ring"])
        writer.writerows([key, *row] for key, row in zip(keys, probabilities, strict=True))
    return summary


def test_the_table_averages_seeds_and_compares_with_the_first_cell(tmp_path):
    labels, (weak, strong) = draw_predictions(3)
    _, (weaker, _) = draw_predictions(4)
    keys = [f"face, {i}" for i in range(len(labels))]
    evaluations = {
        "global": {"a": weak, "b": np.where(labels >= 0, weaker, weak)},
        "+AML+G2FF": {"c": strong},
    }
    summaries = {
        cell: [write_evaluation(tmp_path / name, keys, p, labels) for name, p in seeds.items()]
        for cell, seeds in evaluations.items()
    }
    folders = {cell: [tmp_path / name for name in seeds] for cell, seeds in evaluations.items()}
    rows = summarize(folders, LabelledSplit(keys, labels))
    baseline, other = rows

    accuracies = [summary["mean_accuracy"] for summary in summaries["global"]]
    assert baseline.accuracy == pytest.approx(np.mean(accuracies))
    assert baseline.deviation == pytest.approx(abs(accuracies[0] - accuracies[1]) / np.sqrt(2))
    assert (baseline.difference, other.deviation) == (None, None)
    assert other.difference.mean == pytest.approx(other.accuracy - baseline.accuracy)
    assert other.difference.low < other.difference.mean < other.difference.high
    hair = [summary["per_group"]["hair"]["accuracy"] for summary in summaries["global"]]
    assert baseline.per_group["hair"] == pytest.approx(np.mean(hair))

    write(tmp_path, rows, title="Ablation", provenance={"Command": "`python`"})
    with (tmp_path / "ablation.csv").open() as file:
        fields = list(csv.DictReader(file))
    assert [row["difference"] for row in fields] == ["", f"{other.difference.mean:.4f}"]
    mean, low, high = other.difference
    assert f"| {mean:+.2f} [{low:+.2f}, {high:+.2f}] | –" in (tmp_path / "ablation.md").read_text()
    assert "+AML+G2FF" in (tmp_path / "ablation.svg").read_text()

    with pytest.raises(ValueError, match="other faces"):
        summarize(folders, LabelledSplit(keys[::-1], labels))


def test_every_cell_has_its_seeds_and_runs_are_ordered_by_seed():
    seeds = parse_seeds(["global", "uniform", "+AML+G2FF"], ["1", "+AML+G2FF:2"])
    runs = plan(Path("out"), seeds, 7)
    assert [str(run.workdir) for run in runs] == [
        "out/global/seed-7",
        "out/uniform/seed-7",
        "out/aml-g2ff/seed-7",
        "out/aml-g2ff/seed-8",
    ]
    assert runs[1].overrides["model.masks"] == "uniform"
    for wrong in (["global:2"], ["0"], ["1.5"], ["1", "glabal:2"]):
        with pytest.raises(
            ValueError,
            match=r"expected a whole number|no cell 'glabal' among .*did you mean global",
        ):
            parse_seeds(["global", "uniform"], wrong)


def test_all_cells_of_a_two_stage_config_build_and_a_reduced_config_is_rejected():
    check(tiny_config(mask_training="two_stage"), CELEBA, CELLS)
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


def test_ctrl_c_ends_a_child_with_one_sigterm(monkeypatch):
    assert processes.call(["timeit", "--number=1"]) == 0
    assert processes.call(["timeit", "--no-such-flag"]) == 2

    children, popen = [], subprocess.Popen

    def start_and_interrupt(*arguments, **options):
        children.append(popen(*arguments, **options))
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
        return children[0]

    monkeypatch.setattr(subprocess, "Popen", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        processes.call(["timeit", "import time; time.sleep(100)"])
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
        "cell 1 of 2: +AML, seed 0",
        "cell 1 of 2: +AML, seed 0 failed; see its log above",
        "cell 2 of 2: global, seed 0",
    ]
    assert f"to {NUM_STEPS}" in log
    assert "steps 0 to" not in log
    assert not (out / "ablation.md").exists(), "there is no baseline to compare with"

    again = commands.run([*arguments, "--cells=global"], environment)
    assert "cell 1 of 1: global, seed 0 is finished" in again.stderr
    assert "experiments.train" not in again.stderr
    accuracy = json.loads((out / "global/seed-0/train/metrics.json").read_text())["mean_accuracy"]
    assert f"| global | 1 | {accuracy:.2f} |" in (out / "ablation.md").read_text()
