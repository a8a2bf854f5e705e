"""The landmark stage as an Apache Beam pipeline, for more faces than one machine can process.

    python -m landmarks.beam_pipeline --source=celeba --data_dir=CELEBA --out_dir=DIR \
        -- --runner=DirectRunner --direct_num_workers=8 --direct_running_mode=multi_processing

The flags before `--` are those of `landmarks.precompute`; everything after it goes to Beam. The
tests run DirectRunner, and DaskRunner with a scheduler and workers in processes of their own:

    dask scheduler --host=HOST --port=8786
    dask worker tcp://HOST:8786 --nthreads=1 --no-nanny        (on each machine, once for each core)
    python -m landmarks.beam_pipeline ... -- --runner=DaskRunner --dask_client_address=tcp://HOST:8786

Beam's documentation asks for these options on other runners, none of which has been run here:

    Dataflow  --runner=DataflowRunner --project=P --region=R --temp_location=gs://BUCKET/tmp
              --sdk_container_image=IMAGE --number_of_worker_harness_threads=1
    Flink     --runner=FlinkRunner --flink_master=HOST:8081 --parallelism=64
              --environment_type=DOCKER --environment_config=IMAGE
    Spark     --runner=SparkRunner --spark_master_url=spark://HOST:7077
              --environment_type=DOCKER --environment_config=IMAGE

This package's extra `beam` installs Beam, and `dask` Beam with Dask; Dataflow also needs
`apache-beam[gcp]`. IMAGE is Beam's own image (apache/beam_python3.12_sdk:VERSION, matching the
local Python and Beam) with this package installed in it. Every worker must see `--data_dir` and
`--out_dir` under the names given here: use folders of a network file system, or gs:// paths with
the extra `gcs`.

A work item is one shard, made by the same function as in `landmarks.precompute`, so the data set is
byte-identical. A killed worker's shards are made by the others, and either command completes an
interrupted run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import threading
from collections.abc import Iterator, Sequence

import apache_beam as beam
from absl import app, flags
from apache_beam.options.pipeline_options import PipelineOptions
from tqdm import tqdm

from landmarks import shards, stage
from landmarks.beam_shard import MakeShard
from landmarks.shards import Shard
from landmarks.sources import Source
from landmarks.task import RUN_AGAIN, StageError, Task

_DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"
_SECONDS_BETWEEN_COUNTS = 1.0

flags.adopt_module_key_flags(stage)


def main(argv: Sequence[str]) -> None:
    options = PipelineOptions(beam_options(argv[1:]))
    stage.run(functools.partial(make_shards, options))


def beam_options(arguments: Sequence[str]) -> list[str]:
    """The options for Beam, in which `--runner=DaskRunner` is enough to use Dask.

    Raises:
      SystemExit: Dask is not installed.
    """
    options = list(arguments)
    if "--runner=DaskRunner" in options:
        if importlib.util.find_spec("distributed") is None:
            raise SystemExit("error: --runner=DaskRunner needs the package's extra dask")
        options[options.index("--runner=DaskRunner")] = f"--runner={_DASK}"
        if not any(option.startswith(("--dask_npart", "--dask_part")) for option in options):
            options.append("--dask_partition_size=1")  # Else one worker may get all shards.
    return options


def make_shards(
    options: PipelineOptions, task: Task, source: Source, missing: Sequence[Shard]
) -> None:
    """Makes shards on the runner that the options name.

    Raises:
      StageError: If the pipeline fails.
    """
    names = [shard.name for shard in missing]
    try:
        with _counted(task, missing), beam.Pipeline(options=options) as pipeline:
            # Only names are sent, because runners limit a pipeline to some megabytes. Without the
            # reshuffle, a runner may leave all of them to the worker that created the list.
            _ = pipeline | beam.Create(names) | beam.Reshuffle() | beam.ParDo(MakeShard(task))
    except Exception as error:  # Every runner has its own error types.
        reason = str(error).strip().splitlines()[-1]
        raise StageError(f"the pipeline failed: {reason}: {RUN_AGAIN}") from error


@contextlib.contextmanager
def _counted(task: Task, missing: Sequence[Shard]) -> Iterator[None]:
    """Shows how many shards are finished, whichever machine makes them."""
    ended = threading.Event()
    waiting = list(missing)

    def count() -> None:
        while waiting and not ended.wait(_SECONDS_BETWEEN_COUNTS):
            for shard in waiting[:]:
                if shards.read_sidecar(task.out_dir, shard) is not None:
                    waiting.remove(shard)
                    bar.update()

    with tqdm(total=len(missing), unit=" shards", desc="landmarks") as bar:
        thread = threading.Thread(target=count, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        bar.update(len(waiting))


if __name__ == "__main__":
    app.run(main)
