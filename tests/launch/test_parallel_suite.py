"""tests/parallel and tests/parallel_tensorflow under horovodrun, on 2 and 3 ranks, with Gloo and with MPI."""

import sys

import pytest
from launcher import TRANSPORTS, assert_passed_on_every_rank, horovodrun


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("suite", ["parallel", "parallel_tensorflow"])
def test_parallel_suite(suite, ranks, transport):
    pytest_ = [sys.executable, "-m", "pytest", f"tests/{suite}", "-q", "-x", "--color=no", "-p", "no:cacheprovider"]
    result = horovodrun("-np", str(ranks), f"--{transport}", *pytest_, "--timeout=120", timeout=1400)
    assert_passed_on_every_rank(result, ranks)
