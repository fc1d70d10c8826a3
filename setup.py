"""Builds the compiled kernels and TensorFlow's operators around them; everything else is in setup.cfg.

The library is plain C++ without a Python interface, loaded with ctypes. No -march: instruction sets are chosen at run
time. -ffp-contract=off because the kernels are held to the bits of the NumPy specification. The operators are built
without TensorFlow: they look its C API up in the process that loads them.
"""

from glob import glob

from setuptools import Extension, setup

CSRC = "hvd_gqsgd/kernels/csrc"
TENSORFLOW = "hvd_gqsgd/tensorflow/csrc"

setup(
    ext_modules=[
        Extension(
            "hvd_gqsgd.kernels._kernels",
            sources=sorted(glob(f"{CSRC}/*.cpp")),
            depends=sorted(glob(f"{CSRC}/*.h") + glob(f"{CSRC}/*.inc")),
            language="c++",
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-fno-math-errno",
                "-ffp-contract=off",
                "-fopenmp",
                "-fvisibility=hidden",
                "-Wall",
                "-Wextra",
            ],
            extra_link_args=["-fopenmp"],
        ),
        Extension(
            "hvd_gqsgd.tensorflow._ops",
            sources=[f"{TENSORFLOW}/ops.cpp"],
            depends=[*glob(f"{TENSORFLOW}/*.h"), f"{CSRC}/kernels.h"],
            language="c++",
            extra_compile_args=["-std=c++17", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra"],
            extra_link_args=["-ldl"],
        ),
    ],
)
