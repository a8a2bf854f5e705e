"""Runs a command with further trunks available: python -m tests.helpers.with_stub MODULE --flags.

`--config.model.trunk=stub` trains with the stub trunk, `resnet10` with the smallest real one: a
single block in each stage.
"""

import functools
import runpy
import sys

from mgmtn_jax.models import build, resnet
from tests.helpers.stubs import StubTrunk

if __name__ == "__main__":
    build.TRUNKS["stub"] = StubTrunk
    resnet.BLOCKS["resnet10"] = resnet.Variant(resnet.BasicBlock, (1, 1, 1, 1))
    build.TRUNKS["resnet10"] = functools.partial(resnet.ResNet, "resnet10")
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
