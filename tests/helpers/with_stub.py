"""Runs a command with further trunks available: python -m tests.helpers.with_stub MODULE --flags.

`--config.model.trunk=stub` trains with the stub trunk, `resnet10` with the smallest real one: a
single block in each stage. The folder in TEST_PRETRAINED, if set, takes the place of the network
that comes with the package.
"""

import functools
import os
import runpy
import sys
from pathlib import Path

from mgmtn_jax import pretrained
from mgmtn_jax.models import build, resnet
from tests.helpers.stubs import StubTrunk

if __name__ == "__main__":
    build.TRUNKS["stub"] = StubTrunk
    resnet.BLOCKS["resnet10"] = resnet.Variant(resnet.BasicBlock, (1, 1, 1, 1))
    build.TRUNKS["resnet10"] = functools.partial(resnet.ResNet, "resnet10")
    pretrained.FOLDER = Path(os.environ.get("TEST_PRETRAINED", pretrained.FOLDER))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
