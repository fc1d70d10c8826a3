"""The image: complete, without secrets, and closed to everybody but the cluster's own nodes."""

from __future__ import annotations

import json

from nodes import cluster, engine, left_overs

#: What every engine grants.
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")


def test_the_doctor_finds_everything(three):
    said = three.shell("node1", "hvd-gqsgd", "doctor")
    assert "GlobalQSGD can train here with: tensorflow, torch" in said
    assert "MPI, Gloo" in said
    assert three.shell("node1", "python", "-c", "import mpi4py.MPI; print(mpi4py.MPI.Get_library_version())")


def test_nobody_is_root(three):
    assert three.shell("node1", "id", "-u") == "1000"
    assert three.shell("node1", "ssh", "node2", "id", "-u") == "1000"


def test_the_image_holds_no_key(image):
    # Packages bring keys of their own tests.
    search = "grep -rIlE --exclude-dir={proc,sys,site-packages} 'BEGIN [A-Z ]*PRIVATE KEY' / 2>/dev/null; true"
    plant = "printf -- '-----BEGIN OPENSSH PRIVATE KEY-----' >/opt/planted"
    run = ["run", "--rm", *LIMITS, "--user", "root", "--entrypoint", "bash", image, "-c"]
    assert engine(*run, search) == ""
    assert engine(*run, f"{plant}; {search}") == "/opt/planted"


def test_only_the_clusters_key_opens_a_node(three):
    three.shell("node1", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/tmp/stranger")
    bare = "ssh -F /dev/null -p 2222 -o StrictHostKeyChecking=no -o IdentitiesOnly=yes"
    for login in (
        f"{bare} -i /tmp/stranger node2",
        f"{bare} -o PreferredAuthentications=password,keyboard-interactive node2",
        "ssh -l root node2",
    ):
        said = three.shell("node1", "bash", "-c", f"{login} true 2>&1 || echo status $?")
        assert "Permission denied (publickey)" in said and "status 255" in said


def test_a_node_with_another_host_key_is_not_trusted(three, make_cluster):
    other = make_cluster(1)
    engine("network", "connect", three.name, other.container("node1"))
    inspected = json.loads(engine("inspect", other.container("node1")))[0]
    address = inspected["NetworkSettings"]["Networks"][three.name]["IPAddress"]
    said = three.shell("node1", "bash", "-c", f"ssh {address} true 2>&1 || echo status $?")
    assert "Host key verification failed" in said and "status 255" in said


def test_no_port_is_published(three):
    for node in three.nodes:
        inspected = json.loads(engine("inspect", three.container(node)))[0]
        assert not any((inspected["HostConfig"].get("PortBindings") or {}).values())
        assert not any((inspected["NetworkSettings"].get("Ports") or {}).values())


def test_the_health_check_passes(image, three):
    inspected = json.loads(engine("image", "inspect", image))[0]
    check = (inspected.get("Healthcheck") or inspected["Config"]["Healthcheck"])["Test"]
    assert check[0] == "CMD"
    three.shell("node1", *check[1:])
    # It is the way in that is checked, so it fails where there is none.
    failing = three.shell("node1", "bash", "-c", f"{check[1]} -p 2223 {' '.join(check[2:])} 2>&1 || echo status $?")
    assert "status 255" in failing


def test_versions_are_listed(image, three):
    inspected = json.loads(engine("image", "inspect", image))[0]
    labels = inspected.get("Labels") or inspected["Config"]["Labels"]
    listed = three.shell("node1", "cat", labels["hvd_gqsgd.packages"])
    assert "horovod==0.28.1" in listed and "openssh-server\t" in listed


def test_down_leaves_nothing(make_cluster):
    two = make_cluster(2)
    assert set(left_overs(two)) >= {"containers", "networks", "volumes", "processes"}
    two.down()
    assert left_overs(two) == {}


def test_a_second_cluster_of_the_same_name_is_refused(make_cluster):
    one = make_cluster(1)
    done = cluster("up", name=one.name)
    assert done.returncode == 1
    assert f"a cluster '{one.name}' is up; `docker/cluster down` ends it" in done.stdout
    assert one.shell("node1", "hostname") == "node1"


def test_a_missing_image_is_an_error_that_says_what_to_do():
    done = cluster("--image", "localhost/never-made", "up", name="hvd-gqsgd-never-made")
    assert done.returncode == 1
    assert "image localhost/never-made is not here; `docker/cluster build` makes it" in done.stdout


def test_a_missing_base_is_an_error_that_says_what_to_do():
    done = cluster("build", "--base", "localhost/never-made:1", timeout=300)
    assert done.returncode == 1
    assert "base image localhost/never-made:1: neither here nor to be pulled" in done.stdout
    assert "docker/base-image" in done.stdout
