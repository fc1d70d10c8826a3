"""``python -m benchmarks.programs NAME OPTIONS RESULT``: one rank of a benchmark; rank 0 writes RESULT."""

import importlib
import json
import sys
from pathlib import Path

import horovod.torch as hvd

name, options, result = sys.argv[1:]
hvd.init()
measured = importlib.import_module(f"benchmarks.programs.{name}").run(json.loads(options))
if hvd.rank() == 0:
    Path(result).write_text(json.dumps(measured))
hvd.shutdown()
