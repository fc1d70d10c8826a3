"""What ranks differ in is put into words."""

import os
import subprocess
import sys

import pytest

from hvd_gqsgd.schemes import GlobalQSGD
from hvd_gqsgd.schemes.agreement import (
    DIGESTS_BYTES,
    Differences,
    Statement,
    check_value,
    digests_of,
    only_odd,
    tensor_id,
)
from hvd_gqsgd.schemes.base import CHECK_RANGE

TENSORS = ("a [2, 3] float32 cpu", "b [4] float32 cpu")


def statement(bits=8, tensors=TENSORS, problem=""):
    return Statement.of(GlobalQSGD(bits=bits), tensors, problem)


def test_equal_statements_do_not_differ():
    assert not Differences({0: statement(), 1: statement(), 5: statement()})


def test_differing_settings_are_said_by_rank():
    said = str(Differences({0: statement(8), 1: statement(4), 2: statement(8)}))
    assert "ranks 0, 2 got GlobalQSGD(bits=8" in said
    assert "rank 1 got GlobalQSGD(bits=4" in said


def test_differing_tensors_are_said_by_rank_and_common_ones_are_not():
    said = str(Differences({0: statement(), 1: statement(tensors=(TENSORS[0], "b [5] float32 cpu"))}))
    assert "rank 0 got b [4] float32 cpu" in said
    assert "rank 1 got b [5] float32 cpu" in said
    assert "a [2, 3]" not in said


def test_a_problem_on_one_rank_is_said():
    assert "rank 1: out of luck" in str(Differences({0: statement(), 1: statement(problem="out of luck")}))


def test_brief_statements_differ_where_the_full_ones_do():
    other = statement(tensors=(TENSORS[0], "b [5] float32 cpu"))
    assert Differences({0: statement().brief(), 1: other.brief()})
    assert not Differences({0: statement().brief(), 1: statement().brief()})


@pytest.mark.parametrize("limit", [2048, 65536])
def test_a_statement_fits_its_slot_and_reads_back(limit):
    huge = statement(tensors=tuple(f"parameter{i} [1000, 1000] float32 cpu" for i in range(5000)), problem="é" * 9999)
    text = huge.to_bytes(limit)
    assert len(text) <= limit
    read = Statement.from_bytes(text)
    assert read.settings == huge.settings
    assert huge.problem.startswith(read.problem)
    assert Statement.from_bytes(statement().to_bytes(limit)) == statement()


def test_digests_are_the_same_in_every_process():
    # They go over the wire, where Python's own hash() would differ from process to process.
    code = "from hvd_gqsgd.schemes.agreement import *; print(tensor_id('a.weight'), check_value('a', 'b'))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": s}, capture_output=True, check=True
        ).stdout
        for s in ("1", "2")
    }
    assert said == {f"{tensor_id('a.weight')} {check_value('a', 'b')}\n".encode()}
    assert 1 <= check_value("a", "b") < CHECK_RANGE
    assert check_value("a", "b") != check_value("ab")


def test_tensors_past_what_fits_are_not_called_odd():
    many = statement(tensors=tuple(f"t{i} [4] float32 cpu" for i in range(DIGESTS_BYTES // 8 + 500)))
    other = statement(tensors=(*many.tensors[:-1], "t0 [5] float32 cpu"))
    said = {0: digests_of(many), 1: digests_of(other)}
    assert all(len(text) <= DIGESTS_BYTES for text in said.values())
    for mine in (many, other):
        # Nothing that both have, and of what differs at most what was said.
        assert set(only_odd(mine, said).tensors) <= set(many.tensors) ^ set(other.tensors)
