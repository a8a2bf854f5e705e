"""The landmark stage as an Apache Beam pipeline, for more faces than one machine should see.

    python -m landmarks.beam_pipeline --source=celeba --data_dir=CELEBA --out_dir=DIR \
        -- --runner=DirectRunner --direct_num_workers=8 --direct_running_mode=multi_processing

Before `--` stand the flags of `landmarks.precompute`, what follows goes to Beam as it is. Tests run
DirectRunner; for the others, of which none has been tried here, Beam's documentation asks for:

    Dataflow  --runner=DataflowRunner --project=P --region=R --temp_location=gs://BUCKET/tmp
              --sdk_container_image=IMAGE --number_of_worker_harness_threads=1
    Flink     --runner=FlinkRunner --flink_master=HOST:8081 --parallelism=64
              --environment_type=DOCKER --environment_config=IMAGE
    Spark     --runner=SparkRunner --spark_master_url=spark://HOST:7077
              --environment_type=DOCKER --environment_config=IMAGE

The extra `beam` of this package installs Beam; Dataflow also needs `apache-beam[gcp]`. IMAGE is
Beam's own (apache/beam_python3.12_sdk:VERSION, for the Python and Beam in use) with this package
installed in it. Every worker has to see `--data_dir` and `--out_dir` under the names given here:
folders of a network file system, or gs:// paths, for which there is the extra `gcs`.

A work item is one shard, made by the function that makes it everywhere else, so the data set has
the same bytes. What was interrupted is finished by the same command, or by `landmarks.precompute`.
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
    """Makes shards wherever the options say."""
    names = [shard.name for shard in missing]
    try:
        with beam.Pipeline(options=options) as pipeline:
            # The names alone travel: a pipeline may weigh no more than some megabytes. Without the
            # reshuffle, a runner could leave all of them to the worker that made the list.
            _ = pipeline | beam.Create(names) | beam.Reshuffle() | beam.ParDo(MakeShard(task))
    except Exception as error:  # Every runner has errors of its own.
        reason = str(error).strip().splitlines()[-1]
        raise StageError(f"the pipeline failed: {reason}: {RUN_AGAIN}") from error


class MakeShard(beam.DoFn):
    """Makes the shard of a name.

    Args:
      task: how. Each worker reads the source's label files itself.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._faces = Metrics.counter("landmarks", "faces")

    def setup(self) -> None:
        cv2.setNumThreads(0)  # The workers are the parallelism.
        self._source = self._task.read_source()
        # A worker that sees another folder, or has another dlib, makes no shard.
        work_folder.check(self._task.out_dir, self._task.fingerprint(self._source))
        plan = shards.plan_shards(self._source, self._task.num_shards)
        self._shards = {shard.name: shard for shard in plan}
        self._detector = self._task.load_detector(self._source.fallback_box)

    def process(self, name: str) -> None:
        shard, task = self._shards[name], self._task
        if shards.read_sidecar(task.out_dir, shard) is not None:
            return  # A runner may repeat what it has done.
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
