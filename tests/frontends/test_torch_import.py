"""What is wrong with an installation is said when the front end is imported, not in the middle of a training."""

import subprocess
import sys

import pytest

from hvd_gqsgd.errors import IncompatibleHorovodError


def import_after(code: str, **environment: str) -> subprocess.CompletedProcess:
    program = f"{code}\nimport hvd_gqsgd.torch\nprint('imported')"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("version", ["0.27.0", "0.29.0", "1.0"])
def test_a_horovod_that_was_not_tested_is_refused(version):
    result = import_after(f"import horovod; horovod.__version__ = {version!r}")
    assert result.returncode != 0
    assert "IncompatibleHorovodError" in result.stderr
    assert f"expected >=0.28.1,<0.29, got {version}; install Horovod 0.28.1" in result.stderr


def test_a_newer_horovod_can_be_tried():
    result = import_after("import horovod; horovod.__version__ = '0.29.0'", HVD_GQSGD_ALLOW_UNTESTED="1")
    assert result.returncode == 0, result.stderr
    assert "got 0.29.0" in result.stderr
    assert "imported" in result.stdout


def test_missing_kernels_say_how_to_build_them():
    hide = "import pathlib, hvd_gqsgd.kernels.compiled as c; c.library_path = lambda: pathlib.Path('/nowhere/k.so')"
    result = import_after(hide)
    assert result.returncode != 0
    assert "KernelsMissingError" in result.stderr
    assert "pip install --no-build-isolation -e ." in result.stderr


def test_the_specification_can_be_forced():
    result = import_after("", HVD_GQSGD_KERNELS="reference")
    assert result.returncode == 0, result.stderr


def test_a_horovod_function_without_the_variables_that_are_read_is_refused():
    from hvd_gqsgd.torch import calls

    def allreduce(tensor):
        return tensor

    for function in (allreduce, len):
        with pytest.raises(IncompatibleHorovodError, match=r"local variables \['name'\].*horovod==0.28.1"):
            calls._checked(function, "name")
    assert calls._checked(allreduce, "tensor") == (__file__, allreduce.__code__.co_firstlineno)
