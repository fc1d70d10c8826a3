"""``python -m benchmarks.programs NAME OPTIONS RESULT``: one rank of a benchmark; rank 0 writes RESULT."""

import importlib
import json
import sys
from pathlib import Path

name, options, result = sys.argv[1:]
program = importlib.import_module(f"benchmarks.programs.{name}")
# The program's own, for the framework that it measures.
hvd = program.hvd
hvd.init()
measured = program.run(json.loads(options))
if hvd.rank() == 0:
    Path(result).write_text(json.dumps(measured))
hvd.shutdown()
