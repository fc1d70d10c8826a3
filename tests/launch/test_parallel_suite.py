"""tests/parallel and tests/parallel_tensorflow under horovodrun, on 2 and 3 ranks, with Gloo and with MPI."""

import sys

import pytest
from launcher import assert_passed_on_every_rank, horovodrun, needs_mpi

# TensorFlow's suite takes three times as long: each number of ranks and each transport once.
RUNS = [
    pytest.param("parallel", 2, "gloo"),
    pytest.param("parallel", 2, "mpi", marks=needs_mpi),
    pytest.param("parallel", 3, "gloo"),
    pytest.param("parallel", 3, "mpi", marks=needs_mpi),
    pytest.param("parallel_tensorflow", 2, "gloo"),
    pytest.param("parallel_tensorflow", 3, "mpi", marks=needs_mpi),
]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("suite", "ranks", "transport"), RUNS)
def test_parallel_suite(suite, ranks, transport):
    pytest_ = [sys.executable, "-m", "pytest", f"tests/{suite}", "-q", "-x", "--color=no", "-p", "no:cacheprovider"]
    result = horovodrun("-np", str(ranks), f"--{transport}", *pytest_, "--timeout=120", timeout=1400)
    assert_passed_on_every_rank(result, ranks)
