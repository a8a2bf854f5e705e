"""Runs a command with the stub trunk available: python -m tests.helpers.with_stub MODULE --flags.

`--config.model.trunk=stub` trains with it. The folder in TEST_PRETRAINED, if set, takes the place
of the network that comes with the package.
"""

import os
import runpy
import sys
from pathlib import Path

from mgmtn_jax import pretrained
from mgmtn_jax.models import build
from tests.helpers.stubs import StubTrunk

if __name__ == "__main__":
    build.TRUNKS["stub"] = StubTrunk
    pretrained.FOLDER = Path(os.environ.get("TEST_PRETRAINED", pretrained.FOLDER))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
