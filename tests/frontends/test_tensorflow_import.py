"""What is wrong with an installation is said when the front end is imported, not in the middle of a training."""

import doctest
import os
import subprocess
import sys

import pytest

from hvd_gqsgd.errors import IncompatibleHorovodError


def import_after(code: str, what="hvd_gqsgd.tensorflow", **environment: str) -> subprocess.CompletedProcess:
    program = f"{code}\nimport {what}, sys\nprint('torch' in sys.modules)"
    environment = {"HOME": os.environ.get("HOME", "/"), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)


def test_torch_is_not_needed():
    result = import_after("")
    assert result.stdout == "False\n", result.stderr


def test_a_horovod_that_was_not_tested_is_refused():
    result = import_after("import horovod; horovod.__version__ = '0.29.0'")
    assert result.returncode != 0
    assert "expected >=0.28.1,<0.29, got 0.29.0; install Horovod 0.28.1" in result.stderr


@pytest.mark.parametrize(
    "hide",
    [
        "import pathlib, hvd_gqsgd.kernels.compiled as c; c.library_path = lambda: pathlib.Path('/nowhere/k.so')",
        # The operators alone: the kernels have looked for theirs by then.
        "import hvd_gqsgd.kernels, tensorflow as tf; tf.load_op_library = lambda path: tf.io.read_file('/nowhere')",
    ],
    ids=["kernels", "operators"],
)
def test_what_is_not_built_says_how_to_build_it(hide):
    result = import_after(hide)
    assert result.returncode != 0
    assert "KernelsMissingError" in result.stderr
    assert "pip install --no-build-isolation -e ." in result.stderr


def test_kernels_that_operators_cannot_call_are_refused():
    result = import_after("", HVD_GQSGD_KERNELS="reference")
    assert result.returncode != 0
    assert "HVD_GQSGD_KERNELS='reference': TensorFlow's operators call the compiled kernels" in result.stderr


def test_an_instruction_set_can_be_forced():
    result = import_after("", HVD_GQSGD_KERNELS="baseline")
    assert result.returncode == 0, result.stderr


def test_operators_load_into_nothing_but_tensorflow():
    from hvd_gqsgd.tensorflow.library import library_path

    program = f"import ctypes; c = ctypes.CDLL({str(library_path())!r}).gqsgd_tf_failure; c.restype = ctypes.c_char_p"
    result = subprocess.run(
        [sys.executable, "-c", f"{program}; print(c().decode())"], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "libtensorflow_framework.so.2 is not loaded"


def test_keras_of_another_backend_is_refused():
    result = import_after("", what="hvd_gqsgd.tensorflow.keras", KERAS_BACKEND="torch")
    assert result.returncode != 0
    assert "expected Keras 3 on TensorFlow, got Keras 3." in result.stderr
    assert "on torch; write KERAS_BACKEND=tensorflow" in result.stderr


def test_a_horovod_function_without_the_variables_that_are_read_is_refused():
    from hvd_gqsgd.tensorflow import calls

    def allreduce(tensor):
        return tensor

    for function in (allreduce, len, None):
        with pytest.raises(IncompatibleHorovodError, match=r"variables \['name'\].*horovod==0.28.1"):
            calls._checked(function, "name")
    assert calls._checked(allreduce, "tensor") == {"tensor"}


def test_names_examples():
    from hvd_gqsgd.tensorflow import names

    result = doctest.testmod(names)
    assert result.attempted >= 2
    assert result.failed == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a_1/w_3:0", "a_4/w_3:0", "a_4/w_9:0"], ["a/w", "a_1/w", "a_1/w_1"]),
        (["layer_0/w", "layer/w", "layer_10/w", "layer_9/w"], ["layer_1/w", "layer/w", "layer_3/w", "layer_2/w"]),
        ([], []),
        (["x", "x", "y", "x"], ["x", "x#1", "y", "x#2"]),
        (["seq_2/dense_5/k", "seq_2/dense_7/k", "seq_3/dense_9/k"], ["seq/dense/k", "seq/dense_1/k", "seq_1/dense/k"]),
    ],
)
def test_labels_do_not_depend_on_what_was_numbered_before(given, expected):
    from hvd_gqsgd.tensorflow.names import labels_of

    assert labels_of(given) == expected
