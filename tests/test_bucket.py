"""Data set and workdir behind gs://, through gcsfs and TensorStore, on an emulator."""

import json
import signal

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tests.helpers import gcs_emulator, small_runs
from tests.helpers.small_runs import Run, run_module

NUM_STEPS, SAVE_EVERY = 60, 20
DATA, WORKDIR, OUT = "gs://bucket/data", "gs://bucket/run", "gs://bucket/out"


@pytest.fixture
def emulator(tmp_path):
    with gcs_emulator.running(tmp_path) as emulator:
        yield emulator


def _is_saved(emulator, step):
    """True once a step's manifest is uploaded; the upload's first request only announces it."""
    upload = f"name=run/checkpoints/{step}/SHA256SUMS"
    return any(upload in line and "upload_id" in line for line in emulator.requests())


def test_run_behind_a_url_survives_a_kill(emulator, tmp_path):
    """Precompute, train, kill, resume, evaluate."""
    env = small_runs.environment() | emulator.env
    del env["JAX_LOG_COMPILES"]
    flags = ("--source=drawn", "--limit=40", "--num_shards=4", "--detector=none")
    run_module("landmarks.precompute", *flags, "--num_workers=1", f"--out_dir={DATA}", env=env)

    before = len(emulator.requests())
    steps = f"--config.train.num_steps={NUM_STEPS}", f"--config.checkpoint.every_steps={SAVE_EVERY}"
    run = Run(WORKDIR, env, *steps, data_dir=DATA)
    run.wait_for(lambda: _is_saved(emulator, SAVE_EVERY))
    run.process.kill()
    run.ended(-signal.SIGKILL)
    requests = emulator.requests()[before:]
    first_record = next(
        number for number, line in enumerate(requests) if "faces-train" in line and "media" in line
    )
    print(f"{first_record} requests before the first record is read")
    assert first_record < 100

    log = Run(WORKDIR, env, *steps, data_dir=DATA).ended()
    assert f"steps 0 to {NUM_STEPS}" not in log
    assert "ReadaheadCache" not in log
    rows = [json.loads(line) for line in emulator.read("run/metrics.jsonl").splitlines()]
    trained = [row["step"] for row in rows if row["split"] == "train"]
    assert trained == list(range(1, NUM_STEPS + 1))
    assert [row["step"] for row in rows if row["split"] == "validation"] == [NUM_STEPS]
    assert json.loads(emulator.read("run/config.json"))["config"]["model"]["trunk"] == "stub"
    _, resumed = sorted(emulator.names("run/events.out."))
    (tmp_path / "events").write_bytes(emulator.read(f"run/events.out.{resumed}"))
    events = list(EventFileLoader(str(tmp_path / "events")).Load())
    assert events[-1].step == NUM_STEPS
    assert len(events) > NUM_STEPS / 2

    flags = (f"--workdir={WORKDIR}", f"--data_dir={DATA}", f"--out={OUT}", "--num_faces=3")
    run_module("experiments.evaluate", *flags, env=env)
    assert json.loads(emulator.read("out/metrics.json"))["num_examples"] == 4
    assert len(emulator.read("out/predictions.csv").splitlines()) == 1 + 4
    assert b"</html>" in emulator.read("out/report/index.html")
    assert not [name for name in emulator.names("") if "partial" in name]
