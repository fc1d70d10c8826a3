"""docker/mpijob.yaml is what the MPI operator and Kubernetes take, and says what the image says."""

import copy
import json
import re
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "docker" / "mpijob.yaml"
DOCKERFILES = [ROOT / "docker" / name for name in ("Dockerfile", "Dockerfile.gpu")]
SCHEMA = json.loads((Path(__file__).parent / "mpijob.schema.json").read_text())
#: Of Kubernetes: the oldest and the newest that kubernetes-validate 1.37 knows.
KUBERNETES = ["1.25", "1.37"]


def complaints(job, kubernetes=KUBERNETES[-1]):
    """What the operator and Kubernetes have to say against an MPIJob: "where: what"."""
    found = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(SCHEMA).iter_errors(job)]
    for role, replica in job["spec"]["mpiReplicaSpecs"].items():
        spec = replica.get("template", {}).get("spec", {})
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role.lower()}, "spec": spec}
        try:
            kubernetes_validate.validate(pod, kubernetes, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{role}.{'.'.join(map(str, error.absolute_path))}: {error.message}")
    return found


@pytest.fixture
def job():
    return yaml.safe_load(MANIFEST.read_text())


def change(job, path, value):
    """The job with something else at a dotted path; numbers are places in lists."""
    job = copy.deepcopy(job)
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    inner = job
    for part in parents:
        inner = inner[part]
    inner[last] = value
    return job


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_the_manifest_is_accepted(job, kubernetes):
    assert complaints(job, kubernetes) == []


def test_a_users_variant_is_accepted(job):
    for path, value in {
        "metadata.namespace": "training",
        "metadata.labels": {"kueue.x-k8s.io/queue-name": "gpus"},
        "spec.runLauncherAsWorker": False,
        "spec.mpiImplementation": "OpenMPI",
        "spec.runPolicy.ttlSecondsAfterFinished": 3600,
        "spec.runPolicy.activeDeadlineSeconds": 86400,
        "spec.runPolicy.suspend": True,
        "spec.runPolicy.schedulingPolicy": {"minAvailable": 3, "queue": "q", "minResources": {"nvidia.com/gpu": 8}},
        "spec.mpiReplicaSpecs.Worker.template.metadata": {"annotations": {"sidecar.istio.io/inject": "false"}},
        "spec.mpiReplicaSpecs.Worker.template.spec.nodeSelector": {"pool": "gpu"},
        "spec.mpiReplicaSpecs.Worker.template.spec.containers.0.env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
        "spec.mpiReplicaSpecs.Worker.template.spec.containers.0.resources.limits": {"nvidia.com/gpu": 4},
    }.items():
        job = change(job, path, value)
    assert complaints(job) == []


LAUNCHER, WORKER = (f"spec.mpiReplicaSpecs.{role}" for role in ("Launcher", "Worker"))


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("apiVersion", "kubeflow.org/v1", "$.apiVersion: "),
        ("metadata.name", "Digits", "$.metadata.name: "),
        ("metadata.name", "d" * 53, "$.metadata.name: "),
        ("spec.cleanPodPolicy", "Running", "$.spec: "),
        ("spec.slotsPerWorkers", 2, "$.spec: "),
        ("spec.slotsPerWorker", "2", "$.spec.slotsPerWorker: "),
        ("spec.sshAuthMountPath", "keys", "$.spec.sshAuthMountPath: "),
        ("spec.launcherCreationPolicy", "WaitForWorkers", "$.spec.launcherCreationPolicy: "),
        ("spec.runPolicy.cleanPodPolicy", "Always", "$.spec.runPolicy.cleanPodPolicy: "),
        ("spec.runPolicy.backoffLimits", 2, "$.spec.runPolicy: "),
        ("spec.mpiReplicaSpecs.Workers", {"replicas": 2, "template": {"spec": {}}}, "$.spec.mpiReplicaSpecs: "),
        (f"{LAUNCHER}.replicas", 2, "$.spec.mpiReplicaSpecs.Launcher.replicas: "),
        (f"{LAUNCHER}.replica", 1, "$.spec.mpiReplicaSpecs.Launcher: "),
        (f"{WORKER}.replicas", 0, "$.spec.mpiReplicaSpecs.Worker.replicas: "),
        (f"{WORKER}.restartPolicy", "Always", "$.spec.mpiReplicaSpecs.Worker.restartPolicy: "),
        (f"{WORKER}.template.specs", {}, "$.spec.mpiReplicaSpecs.Worker.template: "),
        (f"{WORKER}.template.spec.container", [], "Worker.spec: "),
        (f"{WORKER}.template.spec.containers", None, "Worker.spec.containers: "),
        (f"{WORKER}.template.spec.securityContext.runAsUser", "1000", "Worker.spec.securityContext.runAsUser: "),
        (f"{WORKER}.template.spec.containers.0.comand", ["sh"], "Worker.spec.containers.0: "),
        (f"{WORKER}.template.spec.containers.0.args", "node", "Worker.spec.containers.0.args: "),
        (f"{LAUNCHER}.template.spec.containers.0.args.1", 1, "Launcher.spec.containers.0.args.1: "),
    ],
)
def test_a_mistake_is_refused_where_it_is(job, path, value, where):
    assert any(complaint.startswith(where) for complaint in complaints(change(job, path, value)))


@pytest.fixture(params=["Launcher", "Worker"])
def pod(job, request):
    return job["spec"]["mpiReplicaSpecs"][request.param]["template"]["spec"]


def test_pods_have_no_privileges_and_a_limit(pod):
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()


def test_the_images_entrypoint_runs(pod):
    """`command` would replace it, and the operator gives one to a worker that has no args."""
    for container in pod["containers"]:
        assert "command" not in container
        assert container["args"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_user_is_the_images(pod, dockerfile):
    assert pod["securityContext"]["runAsUser"] == int(only(r"^ARG USER_ID=(\d+)$", dockerfile))


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_workers_are_nodes_and_ready_at_sshds_port(job, dockerfile):
    (container,) = job["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert container["startupProbe"]["tcpSocket"]["port"] == port["name"]
    assert port["containerPort"] == int(only(r"^Port (\d+)$", ROOT / "docker" / "image" / "sshd_config"))
    assert container["args"] == json.loads(only(r"^CMD (.+)$", dockerfile))


def test_the_key_is_where_the_entrypoint_looks(job):
    where = only(r"\$\{HVD_KEYS:-([^}]+)\}", ROOT / "docker" / "image" / "hvd-entrypoint")
    assert job["spec"]["sshAuthMountPath"] == where


def test_the_launcher_starts_an_example_with_options_that_it_has(job, monkeypatch):
    (container,) = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"]
    launcher, interpreter, script, *options = container["args"]
    assert (launcher, interpreter) == ("mpirun", "python")
    assert (ROOT / script).is_file()
    monkeypatch.syspath_prepend(ROOT / Path(script).parent)
    monkeypatch.setattr(sys, "argv", [script, *options])
    from digits import parse_arguments

    assert parse_arguments(None).compression == "gqsgd"


def only(pattern, path):
    """The one thing that a pattern finds in a file."""
    (found,) = re.findall(pattern, path.read_text(), flags=re.MULTILINE)
    return found
