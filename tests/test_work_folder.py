"""Claiming, resuming and cleaning the output folder, locally and behind a URL."""

import concurrent.futures
import threading

import pytest
from etils import epath

from landmarks import shards, work_folder
from tests.helpers.precompute_runs import drawn_task


def test_a_folder_is_claimed_by_one_run_or_by_array_jobs(tmp_path):
    folder, settings = tmp_path / "faces", {"seed": 1}
    with (
        work_folder.claimed(folder, settings, shared=True),
        work_folder.claimed(folder, settings, shared=True) as done,
    ):
        assert not done
        with (
            pytest.raises(ValueError, match=r"another run is writing into .*faces"),
            work_folder.claimed(folder, settings),
        ):
            pass
    with work_folder.claimed(folder, settings):
        with (
            pytest.raises(ValueError, match=r"another run is writing into .*faces"),
            work_folder.claimed(folder, settings, shared=True),
        ):
            pass
        shards.merge(folder, [], settings)
        (folder / "dataset_info.json").write_text("{}")
    work_folder.clean(folder)
    with work_folder.claimed(folder, settings) as done:
        assert done


def test_concurrent_runs_go_on_only_with_the_settings_of_the_first(tmp_path):
    for i in range(20):
        ready = threading.Barrier(8)

        def begin(seed, folder=tmp_path / str(i), ready=ready):
            ready.wait()
            return not work_folder.begin(folder, {"seed": seed})

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            begun = [pool.submit(begin, j % 2) for j in range(8)]
        errors = [future.exception() for future in begun]
        lost = [isinstance(error, ValueError) for error in errors]
        assert [error is not None for error in errors] == lost
        assert lost in ([False, True] * 4, [True, False] * 4)


def test_a_run_with_other_settings_is_not_resumed(tmp_path):
    folder = tmp_path / "faces"
    settings = {"seed": 1, "limit": 3}
    assert not work_folder.begin(folder, settings)
    assert not work_folder.begin(folder, settings)
    with pytest.raises(ValueError, match=r"seed=1 there and 2 here"):
        work_folder.begin(folder, settings | {"seed": 2})
    shards.merge(folder, [], settings)
    (folder / "dataset_info.json").write_text("{}")
    assert work_folder.begin(folder, settings)  # Finished.
    with pytest.raises(ValueError, match=r"seed=1 there and 2 here"):
        work_folder.begin(folder, settings | {"seed": 2})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"other is not empty"):
        work_folder.begin(tmp_path / "other", settings)
    with pytest.raises(ValueError, match=r"thesis.tex is a file"):
        work_folder.begin(tmp_path / "other" / "thesis.tex", settings)


def test_a_folder_behind_a_url_gets_the_same_files(bucket, tmp_path):
    for out_dir in (tmp_path / "faces", bucket):
        here = drawn_task(out_dir, 4, 3)
        source = here.read_source()
        settings = here.fingerprint(source)
        detector = here.load_detector(source.fallback_box)
        plan = shards.plan_shards(source, here.num_shards)
        with work_folder.claimed(here.out_dir, settings) as done:
            assert not done
            for shard in plan:
                assert shards.read_sidecar(here.out_dir, shard) is None
                faces = source.faces(shard.indices)
                arguments = (source.reader, detector, here.max_pixels, lambda: None)
                shards.write_shard(here.out_dir, shard, faces, *arguments)
                assert shards.read_sidecar(here.out_dir, shard)
            sidecar = epath.Path(here.out_dir) / work_folder.WORK_FOLDER / f"{plan[0].name}.json"
            whole = sidecar.read_bytes()
            sidecar.write_bytes(b"")  # As after a power failure.
            assert shards.read_sidecar(here.out_dir, plan[0]) is None
            sidecar.write_bytes(whole)
            shards.merge(here.out_dir, plan, settings)
            shards.finish(here.out_dir, plan, source.attribute_set)
        work_folder.clean(here.out_dir)
        assert work_folder.begin(here.out_dir, settings)
    remote = {path.name: path.read_bytes() for path in bucket.iterdir()}
    assert remote == {path.name: path.read_bytes() for path in (tmp_path / "faces").iterdir()}
