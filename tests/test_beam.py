"""The landmark stage as a Beam pipeline."""

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from landmarks import beam_pipeline, shards
from landmarks.task import StageError
from tests.helpers.precompute_runs import DRAWN, contents, drawn_task, ended, start, uninterrupted


def test_two_beam_workers_make_the_same_data_set_as_a_local_run(tmp_path):
    folder = tmp_path / "faces"
    beam = ("--", "--direct_num_workers=2", "--direct_running_mode=multi_processing")
    ended(start(folder, *DRAWN, *beam, module="landmarks.beam_pipeline"))
    assert contents(folder) == contents(uninterrupted())


def test_a_worker_that_sees_another_folder_fails_the_pipeline(tmp_path):
    task = drawn_task(tmp_path, 3, 1)
    source = task.read_source()
    missing = shards.plan_shards(source, 1)
    with pytest.raises(StageError, match=r"this worker sees no unfinished data set in"):
        beam_pipeline.make_shards(PipelineOptions([]), task, source, missing)
    assert not list(tmp_path.iterdir())
