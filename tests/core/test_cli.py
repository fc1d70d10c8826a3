"""The command line: what the doctor says about machines that it is told of, and about this one and a bare one."""

import dataclasses
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import hvd_gqsgd
from hvd_gqsgd import cli
from hvd_gqsgd.cli import doctor
from hvd_gqsgd.cli.facts import Facts

ROOT = Path(hvd_gqsgd.__file__).parents[1]
VERSIONS = {
    "Python": "3.11.2",
    "hvd_gqsgd": "0.1.0",
    "numpy": "2.0.2",
    "torch": "2.13.0",
    "tensorflow": "2.18.1",
    "tf_keras": "2.18.0",
    "horovod": "0.28.1",
    "mpi4py": "4.1.2",
    "Open MPI": "4.1.4",
}
WELL = Facts(
    versions=VERSIONS,
    front_ends=frozenset({"torch", "tensorflow"}),
    horovod_built_for={"torch": "2.13.0", "tensorflow": "2.18.1"},
    horovod_operations=("MPI", "Gloo"),
    operators_built=True,
    kernels={"kernels": "avx2", "why": "best of avx2, reference", "threads": "2", "library": "k.so"},
)


def without(*names):
    return {name: version for name, version in VERSIONS.items() if name not in names}


def test_a_machine_with_everything_gets_no_advice():
    assert list(doctor.advice(WELL)) == []
    assert doctor.trainable(WELL) == ["tensorflow", "torch"]


@pytest.mark.parametrize(
    ("change", "trains", "line"),
    [
        ({"versions": without("torch", "tensorflow", "tf_keras")}, [], "torch, tensorflow: neither is installed"),
        ({"versions": without("tensorflow", "tf_keras"), "horovod_built_for": {"torch": "2.13.0"}}, ["torch"], None),
        ({"versions": without("tf_keras")}, ["tensorflow", "torch"], "`pip install --no-deps 'tf_keras==2.18.*'`"),
        (
            {
                "versions": VERSIONS | {"torch": "2.4.0"},
                "horovod_built_for": {"torch": "2.4.0", "tensorflow": "2.18.1"},
            },
            ["tensorflow", "torch"],
            "torch: tested with >=2.13,<2.14, got 2.4.0",
        ),
        ({"front_ends": frozenset({"torch"})}, ["torch"], "tensorflow: this version of hvd_gqsgd has no front end"),
        ({"versions": without("horovod")}, [], "horovod: not installed; `make setup`"),
        ({"versions": VERSIONS | {"horovod": "0.27.0"}}, [], "horovod: tested with >=0.28.1,<0.29, got 0.27.0"),
        ({"horovod_built_for": {"torch": "2.13.0"}}, ["torch"], "horovod: not built for tensorflow"),
        (
            {"horovod_built_for": {"torch": "2.12.0", "tensorflow": "2.18.1"}},
            ["tensorflow", "torch"],
            "horovod: built for torch 2.12.0, but 2.13.0 is installed",
        ),
        (
            {"horovod_operations": None, "horovod_error": "OSError: libmpi"},
            [],
            "horovod: does not load (OSError: libmpi)",
        ),
        ({"horovod_operations": ("Gloo",)}, ["tensorflow", "torch"], "horovod: built without MPI, which is here"),
        ({"versions": without("Open MPI", "mpi4py")}, ["tensorflow", "torch"], "Open MPI: not found, Gloo runs"),
        ({"versions": without("mpi4py")}, ["tensorflow", "torch"], "mpi4py: only needed"),
        ({"kernels": None, "kernels_error": "not built; make setup"}, [], "kernels: not built; make setup"),
        ({"kernels": WELL.kernels | {"kernels": "reference"}}, ["torch"], "unset HVD_GQSGD_KERNELS"),
        ({"operators_built": False}, ["torch"], "tensorflow: its operators are not built; build them with"),
    ],
)
def test_one_line_for_each_thing_that_is_missing(change, trains, line):
    facts = dataclasses.replace(WELL, **change)
    advice = list(doctor.advice(facts))
    assert doctor.trainable(facts) == trains
    assert [line in said for said in advice] == ([True] if line else [])


def test_a_bare_machine_gets_one_line_per_thing():
    bare = Facts(versions={"Python": "3.11.2", "hvd_gqsgd": "0.1.0"}, kernels_error="not built")
    assert [line.split(":")[0] for line in doctor.advice(bare)] == ["torch, tensorflow", "horovod", "kernels"]


def test_the_table_of_this_machine(capsys):
    status = cli.main(["doctor"])
    said = capsys.readouterr().out
    assert f"hvd_gqsgd          {hvd_gqsgd.__version__}\n" in said
    assert f"torch              {metadata.version('torch')}\n" in said
    assert status == 0, said
    assert said.splitlines()[-1] == "GlobalQSGD can train here with: tensorflow, torch"


def test_the_doctor_where_only_numpy_is_installed(tmp_path):
    site = Path(metadata.distribution("numpy").locate_file(""))
    for found in [*site.glob("numpy"), *site.glob("numpy.libs"), *site.glob("numpy-*.dist-info")]:
        (tmp_path / found.name).symlink_to(found)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    bare = subprocess.run(
        # -S: no site-packages, so that nothing but NumPy is there.
        [sys.executable, "-S", "-m", "hvd_gqsgd.cli", "doctor"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert bare.returncode == 1, bare.stderr
    assert "torch              -\n" in bare.stdout
    assert "horovod: not installed; `make setup`" in bare.stdout
    assert bare.stdout.endswith("GlobalQSGD cannot train here yet.\n")
    assert bare.stderr == ""


@pytest.mark.parametrize("arguments", [[], ["docter"], ["doctor", "--fast"]])
def test_unknown_commands_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: hvd-gqsgd" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"hvd_gqsgd {hvd_gqsgd.__version__}\n"
