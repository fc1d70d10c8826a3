"""tests/parallel and tests/parallel_tensorflow under horovodrun, on 2 and 3 ranks, with Gloo and with MPI."""

import re
import sys

import pytest
from launcher import TRANSPORTS, horovodrun


@pytest.mark.timeout(900)
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("suite", ["parallel", "parallel_tensorflow"])
def test_parallel_suite(suite, ranks, transport):
    pytest_ = [sys.executable, "-m", "pytest", f"tests/{suite}", "-q", "-x", "--color=no", "-p", "no:cacheprovider"]
    result = horovodrun("-np", str(ranks), f"--{transport}", *pytest_, "--timeout=120", timeout=800)
    tail = result.stdout[-8000:]
    assert result.returncode == 0, tail
    closing = re.findall(r"(\d+) passed(?:, \d+ warnings?)? in", result.stdout)
    assert len(closing) == ranks, tail
    assert len(set(closing)) == 1, tail
    assert "skipped" not in result.stdout, tail
