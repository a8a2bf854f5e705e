"""Trains MGMTN, or the global baseline, on a data set folder.

    python -m experiments.train --config=experiments/configs/demo.py --workdir=runs/demo \\
        --config.data.dir=data/drawn

Any config field can be overridden as --config.group.field=value. The same command resumes an
interrupted run. On a TPU pod or under Slurm, the same command on every host makes one run;
elsewhere, --coordinator_address, --num_processes and --process_id do. docs/training.md has the
details. From Python: `train_and_evaluate(config, workdir)`.
"""

from __future__ import annotations

import math
import time

import jax
import ml_collections
import tqdm
from absl import flags, logging
from etils import epath
from ml_collections import config_flags

from experiments import cli
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import pipeline
from mgmtn_jax.data.augmentation import Augmentation
from mgmtn_jax.data.data_sets import load_attribute_set
from mgmtn_jax.models.functional import State
from mgmtn_jax.runs import distributed, partitioning
from mgmtn_jax.runs.checkpoints import Checkpoints
from mgmtn_jax.runs.history import MetricWriter
from mgmtn_jax.runs.workdir import claim_workdir, run_metadata
from mgmtn_jax.training import optimization, profiling, progress
from mgmtn_jax.training.initialization import with_pretrained
from mgmtn_jax.training.program import Program, create_program
from mgmtn_jax.training.validation import validate

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment, one of experiments/configs/*.py."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for checkpoints, config.json, metrics.jsonl and TensorBoard events."
)
_PROFILE = flags.DEFINE_string(
    "profile", None, "A:B writes a profiler trace of steps A to B into WORKDIR/profile."
)
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "host:port of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes of the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.")


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: epath.PathLike, profile: str | None = None
) -> None:
    """Trains from the current state of `workdir` to the end, validating and saving on the way.

    Args:
      config: The experiment; experiments/configs/common.py lists all fields.
      workdir: Folder for checkpoints, config.json, metrics.jsonl and TensorBoard events.
      profile: Range of steps to trace, see `profiling.Trace`.

    Raises:
      ValueError: before anything compiles, if the config does not fit the devices, the data or the
        run in `workdir`.
      FloatingPointError: if the loss is not finite. That state is not saved.
    """
    workdir = epath.Path(workdir)
    trace = profiling.Trace(profile, workdir / "profile")

    # --- data set
    attribute_set = load_attribute_set(config.data.dir, separate=config.data.separate)
    num_examples = pipeline.num_examples(config.data.dir, config.data.train_split)
    num_steps = _num_steps(config, num_examples)

    # --- mesh, network, optimizer, and the shapes and shardings of the state
    program = create_program(config, attribute_set, num_steps)
    mesh = program.mesh

    # --- state, restored in this order:
    # 1. Shapes and shardings (above), so that arrays are created or restored in their final place.
    # 2. config.json: another run's config is a clearer message than its arrays.
    # 3. The most recent intact checkpoint, after damaged ones have been renamed.
    # 4. Without a checkpoint, random initial values, then the pretrained weights over them.
    metadata = run_metadata(config, attribute_set, num_examples)
    claim_workdir(workdir, metadata)
    checkpoints = Checkpoints(
        workdir, keep=config.checkpoint.keep, keep_best=config.checkpoint.keep_best
    )
    state = checkpoints.restore_latest(program.abstract_state)
    if state is None:
        state = _initial_state(program)
    start_step = int(state["step"])
    logging.info(
        "%s on %s x %d: %.2f M parameters, %d training faces, steps %d to %d",
        config.model.name,
        jax.devices()[0].device_kind,
        jax.device_count(),
        sum(leaf.size for leaf in jax.tree.leaves(state["params"])) / 1e6,
        num_examples,
        start_step,
        num_steps,
    )
    if start_step >= num_steps:
        checkpoints.close()
        return

    # --- compiled steps
    start = time.perf_counter()
    train_step = program.lower_train_step().compile()
    step_flops = profiling.step_flops(train_step, config.train.accumulate)
    logging.info(
        "compiled the training step in %.1f s: %.2f GFLOP on each device",
        time.perf_counter() - start,
        step_flops / 1e9,
    )
    eval_step = program.jit_eval_step()

    # --- loop
    writer = MetricWriter(workdir, start_step)
    batches = _training_batches(config, attribute_set, start_step)
    steps_per_epoch = num_examples / config.data.batch_size
    evaluate_every = round(config.train.evaluate_every_epochs * steps_per_epoch) or num_steps
    peak_flops = profiling.peak_flops()
    peak_steps = peak_flops / step_flops if peak_flops and step_flops else None
    speed = progress.Speed(config.data.batch_size, num_steps, start_step, peak_steps)
    validated: dict[str, float] = {}
    bar = tqdm.tqdm(
        range(start_step, num_steps),
        "train",
        num_steps,
        initial=start_step,
        disable=None if jax.process_index() == 0 else True,
    )
    with distributed.stop_signal() as stop_requested:
        # Data moves to and from the devices only by `device_put` and `device_get`.
        with trace.writing(), jax.transfer_guard("disallow"):
            for step in bar:
                done = step + 1
                trace.before(done)
                with speed.waiting():
                    batch = next(batches)
                state, scalars = train_step(state, partitioning.shard_batch(mesh, batch))
                trace.after(done, scalars)
                stopping, last = stop_requested(done), done == num_steps

                if done % config.train.log_every == 0 or last:
                    row = {name: float(value) for name, value in jax.device_get(scalars).items()}
                    row |= speed.measure(done)
                    progress.require_finite(done, row)
                    writer.write(done, "train", row)
                    bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['accuracy']:.1f}")
                    logging.info(speed.describe(done, row))

                is_best = False
                if evaluating := done % evaluate_every == 0 or last:
                    jax.block_until_ready(state)  # Pending steps count as training, not evaluation.
                    with speed.paused():
                        validated = validate(config, attribute_set, mesh, eval_step, state)
                    is_best = checkpoints.is_best(validated.get("accuracy", math.nan))
                    writer.write(done, "validation", validated)
                    logging.info("validation: %s", _describe_validation(validated))

                if done % config.checkpoint.every_steps == 0 or is_best or stopping or last:
                    with speed.paused():
                        progress.require_finite(done, jax.device_get(scalars))
                        writer.flush()  # A run that resumes here does not log these rows again.
                        checkpoints.save(done, state, metadata, validated if evaluating else None)
                if stopping:
                    logging.warning("SIGTERM: saved step %d; the same command resumes here", done)
                    break

        # --- end
        batches.close()
        checkpoints.close()  # waits for the last save
        writer.close()
    logging.info(
        "%s in %s, %s: %s; %s; %s",
        config.model.name,
        workdir,
        "stopped" if stopping else "finished",
        speed.summary(),
        _describe_validation(validated),
        profiling.describe_memory(),
    )


def _num_steps(config: ml_collections.ConfigDict, num_examples: int) -> int:
    num_steps = optimization.num_steps(config, num_examples)
    if num_steps < 1:
        raise ValueError(
            f"the run has no steps: train.num_epochs={config.train.num_epochs} of {num_examples} "
            f"training faces in batches of {config.data.batch_size}, "
            f"train.num_steps={config.train.num_steps}; increase one of the two fields"
        )
    return num_steps


def _initial_state(program: Program) -> State:
    """Creates the state before the first step on its devices."""
    config = program.config
    # XLA's CPU backend takes half a minute to optimize dozens of random draws that run once.
    options: dict[str, str | bool] | None = (
        {"xla_backend_optimization_level": "0"} if jax.default_backend() == "cpu" else None
    )
    state = program.lower_init().compile(options)(jax.random.key(config.train.seed))
    if config.model.pretrained:
        started = with_pretrained(config.model, program.attribute_set, state)
        state = jax.device_put(started, program.shardings)
    return state


def _training_batches(
    config: ml_collections.ConfigDict, attribute_set: AttributeSet, start_step: int
) -> pipeline.Batches:
    weights = [float(weight) for weight in config.data.weights.split(",") if weight]
    return pipeline.training_batches(
        config.data.dir,
        split=config.data.train_split,
        batch_size=config.data.batch_size,
        image_size=config.data.image_size,
        seed=config.train.seed,
        start_step=start_step,
        augmentation=Augmentation(**config.augmentation),
        num_threads=config.data.num_threads,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        local_process_count=distributed.local_process_count(),
        on_corrupt=config.data.on_corrupt,
        cache=config.data.cache,
        attribute_set=attribute_set,
        weights=weights or None,
    )


def _describe_validation(validated: dict[str, float]) -> str:
    return progress.format_scalars(validated) or "no validation metrics"


def _main() -> None:
    distributed.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    with distributed.exit_together():
        train_and_evaluate(_CONFIG.value, _WORKDIR.value, _PROFILE.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    cli.run(_main)
