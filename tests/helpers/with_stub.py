"""Runs a command with the stub trunk available: python -m tests.helpers.with_stub MODULE --flags.

`--config.model.trunk=stub` trains with it.
"""

import runpy
import sys

from mgmtn_jax.models import build
from tests.helpers.stubs import StubTrunk

if __name__ == "__main__":
    build.TRUNKS["stub"] = StubTrunk
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
