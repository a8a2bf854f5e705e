"""`experiments.train` with a trunk that compiles at once: --config.model.trunk=stub."""

import runpy

from mgmtn_jax.models import trunks
from tests.stubs import StubTrunk

if __name__ == "__main__":
    trunks.TRUNKS["stub"] = StubTrunk
    runpy.run_module("experiments.train", run_name="__main__")
