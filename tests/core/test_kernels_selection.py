"""Which kernels run, and that what is missing raises instead of falling back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from hvd_gqsgd import kernels
from hvd_gqsgd.errors import KernelsMissingError, SettingsError
from hvd_gqsgd.kernels import compiled
from hvd_gqsgd.kernels.reference import ReferenceKernels
from tests.core import kernel_cases

ROOT = Path(__file__).parents[2]


@pytest.fixture
def unforced(monkeypatch):
    monkeypatch.delenv(kernels.ENVIRONMENT, raising=False)


def run(code: str, forced: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, kernels.ENVIRONMENT: forced}
    return subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)


def test_the_compiled_library_loads():
    assert compiled.load(compiled.library_path()).gqsgd_abi() == compiled.ABI
    assert compiled.runnable()[-1] == "baseline"


def test_available_names_the_best_first_and_the_reference_last():
    names = kernels.available()
    assert names == [name for name in kernels.CHOICES if name in names]
    assert names[-2:] == ["baseline", "reference"]


def test_select_takes_the_best(unforced):
    assert kernels.select().name == kernels.available()[0]


@pytest.mark.parametrize("name", kernels.available())
def test_the_environment_forces(monkeypatch, name):
    monkeypatch.setenv(kernels.ENVIRONMENT, name)
    assert kernels.select().name == name
    said = kernels.describe()
    assert said["kernels"] == name
    assert kernels.ENVIRONMENT in said["why"]


def test_describe_says_what_was_chosen_and_from_where(unforced):
    said = kernels.describe()
    assert said["kernels"] == kernels.select().name
    assert said["library"] == str(compiled.library_path())
    assert int(said["threads"]) >= 1


def test_the_reference_takes_the_given_view(monkeypatch):
    monkeypatch.setenv(kernels.ENVIRONMENT, "reference")
    seen = []
    chosen = kernels.select(as_array=lambda buffer: seen.append(buffer) or buffer)
    assert isinstance(chosen, ReferenceKernels)
    layout = kernel_cases.layout_of([("float32", 4)], 4, 8)
    chosen.block_norms(
        layout, [np.ones(4, np.float32)], np.zeros(layout.norms_numel, np.float32), kernel_cases.turn_of(1)
    )
    assert len(seen) == 2


def test_an_unknown_name_raises_and_names_the_choices():
    result = run("from hvd_gqsgd import kernels; kernels.select()", forced="sse9")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last == (
        "hvd_gqsgd.errors.SettingsError: HVD_GQSGD_KERNELS='sse9': "
        "expected one of avx512, avx2, baseline, reference; or unset it for the best"
    )


def test_forcing_an_instruction_set_that_the_processor_lacks_raises_and_says_what_it_has():
    code = (
        "from hvd_gqsgd import kernels\n"
        "kernels.compiled.runnable = lambda: ['baseline']\n"  # an older processor
        "kernels.select()"
    )
    result = run(code, forced="avx512")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("hvd_gqsgd.errors.KernelsMissingError: kernels 'avx512' do not run on this processor")
    assert last.endswith("it has baseline")


@pytest.fixture
def no_library(unforced, monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "library_path", lambda: tmp_path / "_kernels.so")
    return tmp_path / "_kernels.so"


@pytest.mark.parametrize("call", (kernels.select, kernels.describe, compiled.CompiledKernels))
def test_a_missing_library_raises_with_the_build_command(no_library, call):
    with pytest.raises(KernelsMissingError, match=r"pip install --no-build-isolation -e \.") as error:
        call()
    assert "make setup" in str(error.value) and str(no_library) in str(error.value)


def test_without_a_library_the_reference_runs_only_when_forced(no_library, monkeypatch):
    assert kernels.available() == ["reference"]
    monkeypatch.setenv(kernels.ENVIRONMENT, "reference")
    assert kernels.select().name == "reference"


def test_a_file_that_is_no_library_or_a_foreign_one_raises(no_library):
    no_library.write_bytes(b"not a library")
    with pytest.raises(KernelsMissingError, match="did not load"):
        kernels.select()
    import _ctypes

    with pytest.raises(KernelsMissingError, match="did not load"):
        compiled.load(Path(_ctypes.__file__))


def test_a_library_of_another_version_raises(unforced, monkeypatch):
    monkeypatch.setattr(compiled, "ABI", 0)
    compiled.load.cache_clear()
    with pytest.raises(KernelsMissingError, match=r"of another version \(expected interface 0, got 6\); rebuild"):
        kernels.select()


def test_unknown_instruction_sets_are_settings_errors_only_in_the_environment(monkeypatch):
    monkeypatch.setenv(kernels.ENVIRONMENT, "AVX2")
    with pytest.raises(SettingsError, match="'AVX2'"):
        kernels.select()


@pytest.mark.parametrize("name", compiled.ISAS)
def test_python_threads_may_share_kernels_and_a_layout(name):
    shared = kernel_cases.make(name)
    shapes = (("float32", 5000), ("float16", 300))
    layout, tensors, expected = kernel_cases.case(shapes, 256, 8, 3, 0.5)
    failures = []

    def work() -> None:
        own = [tensor.copy() for tensor in tensors]
        for _ in range(200):
            words = np.full(layout.words_numel, kernel_cases.HEADER, dtype=np.int32)
            shared.encode(layout, own, expected.norms, words, kernel_cases.turn_of(3))
            if words.tobytes() != expected.words.tobytes():
                failures.append(words)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
