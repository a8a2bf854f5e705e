"""The landmark stage as an Apache Beam pipeline, for more faces than one machine can process.

    python -m landmarks.beam_pipeline --source=celeba --data_dir=CELEBA --out_dir=DIR \
        -- --runner=DirectRunner --direct_num_workers=8 --direct_running_mode=multi_processing

The flags before `--` are those of `landmarks.precompute`; everything after it goes to Beam. The
tests run DirectRunner. Beam's documentation asks for these options on other runners, none of which
has been run here:

    Dataflow  --runner=DataflowRunner --project=P --region=R --temp_location=gs://BUCKET/tmp
              --sdk_container_image=IMAGE --number_of_worker_harness_threads=1
    Flink     --runner=FlinkRunner --flink_master=HOST:8081 --parallelism=64
              --environment_type=DOCKER --environment_config=IMAGE
    Spark     --runner=SparkRunner --spark_master_url=spark://HOST:7077
              --environment_type=DOCKER --environment_config=IMAGE

This package's extra `beam` installs Beam; Dataflow also needs `apache-beam[gcp]`. IMAGE is Beam's
own image (apache/beam_python3.12_sdk:VERSION, matching the local Python and Beam) with this package
installed in it. Every worker must see `--data_dir` and `--out_dir` under the names given here: use
folders of a network file system, or gs:// paths with the extra `gcs`.

A work item is one shard, made by the same function as in `landmarks.precompute`, so the data set is
byte-identical. Either command completes an interrupted run.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import apache_beam as beam
import cv2
from absl import app, flags
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from landmarks import shards, stage, work_folder
from landmarks.shards import Shard
from landmarks.sources import Source
from landmarks.task import RUN_AGAIN, StageError, Task

flags.adopt_module_key_flags(stage)


def main(argv: Sequence[str]) -> None:
    stage.run(functools.partial(make_shards, PipelineOptions(argv[1:])))


def make_shards(
    options: PipelineOptions, task: Task, source: Source, missing: Sequence[Shard]
) -> None:
    """Makes shards on the runner that the options name.

    Raises:
      StageError: If the pipeline fails.
    """
    names = [shard.name for shard in missing]
    try:
        with beam.Pipeline(options=options) as pipeline:
            # Only names are sent, because runners limit a pipeline to some megabytes. Without the
            # reshuffle, a runner may leave all of them to the worker that created the list.
            _ = pipeline | beam.Create(names) | beam.Reshuffle() | beam.ParDo(MakeShard(task))
    except Exception as error:  # Every runner has its own error types.
        reason = str(error).strip().splitlines()[-1]
        raise StageError(f"the pipeline failed: {reason}: {RUN_AGAIN}") from error


class MakeShard(beam.DoFn):
    """Makes the shard with a given name.

    Args:
      task: The task. Each worker reads the source's label files itself.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._faces = Metrics.counter("landmarks", "faces")

    def setup(self) -> None:
        cv2.setNumThreads(0)  # The workers are the parallelism.
        self._source = self._task.read_source()
        # A worker that sees another folder, or has another version of dlib, makes no shard.
        work_folder.check(self._task.out_dir, self._task.fingerprint(self._source))
        plan = shards.plan_shards(self._source, self._task.num_shards)
        self._shards = {shard.name: shard for shard in plan}
        self._detector = self._task.load_detector(self._source.fallback_box)

    def process(self, name: str) -> None:
        shard, task = self._shards[name], self._task
        if shards.read_sidecar(task.out_dir, shard) is not None:
            return  # A runner may repeat a work item.
        shards.write_shard(
            task.out_dir,
            shard,
            self._source.faces(shard.indices),
            self._source.reader,
            self._detector,
            task.max_pixels,
            self._faces.inc,
        )


if __name__ == "__main__":
    app.run(main)
