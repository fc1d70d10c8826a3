"""What keeps the image safe: no secret gets into it, nobody is root in it, and only the cluster's key opens it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "docker" / "image"
SECRET = re.compile(r"secret|token|passw|credential|(^|_)key", re.IGNORECASE)


def instructions(path):
    """(word, rest) of each instruction of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def settings(path):
    """{keyword: value} of an OpenSSH configuration without blocks; as in OpenSSH, the first value counts."""
    found = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            keyword, value = line.split(maxsplit=1)
            found.setdefault(keyword.lower(), value)
    return found


@pytest.fixture(params=["Dockerfile", "Dockerfile.gpu"])
def dockerfile(request):
    return instructions(ROOT / "docker" / request.param)


def copied(dockerfile):
    """What the build context is asked for."""
    for word, rest in dockerfile:
        if word in ("COPY", "ADD") and "--from=" not in rest:
            *sources, _ = (part for part in rest.split() if not part.startswith("--"))
            yield from sources


def allowed():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*", ".dockerignore names what gets in; everything else stays out"
    return [line[1:] for line in lines[1:] if line[0] == "!"]


def covers(outer, inner):
    return inner == outer or inner.startswith(f"{outer}/")


def test_the_build_context_has_what_the_images_copy_and_nothing_else():
    sources = {
        source for name in ("Dockerfile", "Dockerfile.gpu") for source in copied(instructions(ROOT / "docker" / name))
    }
    assert [source for source in sources if not any(covers(path, source) for path in allowed())] == []
    assert [path for path in allowed() if not any(covers(path, source) for source in sources)] == []


def test_no_private_key_is_in_the_build_context():
    files = [file for path in allowed() for file in [ROOT / path, *(ROOT / path).rglob("*")] if file.is_file()]
    assert len(files) > 50
    assert [
        file for file in files if file.name.startswith(("id_", "ssh_host_")) or file.suffix in (".pem", ".key")
    ] == []
    assert [file for file in files if b"PRIVATE KEY-----" in file.read_bytes()] == []


def test_no_host_key_stays_in_a_layer(dockerfile):
    """Debian's package makes host keys when it is installed."""
    (install,) = (rest for word, rest in dockerfile if word == "RUN" and "openssh-server" in rest)
    assert re.search(r"rm -rf [^&]*/etc/ssh/ssh_host_\*", install)
    assert not any("ssh-keygen" in rest for _, rest in dockerfile)


def test_the_image_runs_as_a_user_without_rights(dockerfile):
    defaults = dict(rest.split("=", 1) for word, rest in dockerfile if word == "ARG" and "=" in rest)
    *_, user = (rest for word, rest in dockerfile if word == "USER")
    user = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match.group(1)], user)
    assert user.split(":")[0] not in ("root", "0")
    assert not any(re.search(r"\b(sudo|setcap|chmod [ug]?\+s)\b", rest) for _, rest in dockerfile)


def test_no_build_argument_or_variable_is_a_secret(dockerfile):
    """Both stay readable in the image's history."""
    for word, rest in dockerfile:
        if word in ("ARG", "ENV"):
            for name, _, value in (part.partition("=") for part in rest.split()):
                assert not SECRET.search(name), name
                assert "://" not in value, f"{name}: an address may hold a password; it comes from outside"


def test_sshd_takes_the_clusters_key_and_nothing_else():
    sshd = settings(IMAGE / "sshd_config")
    assert "match" not in sshd and "include" not in sshd
    assert sshd["authenticationmethods"] == "publickey"
    assert sshd["allowusers"] == "horovod"
    assert sshd.get("strictmodes", "yes") == "yes"
    for way in ("passwordauthentication", "kbdinteractiveauthentication", "permitrootlogin", "usepam"):
        assert sshd[way] == "no", way
    forwarding = ("allowagentforwarding", "allowtcpforwarding", "allowstreamlocalforwarding", "x11forwarding")
    for detour in (*forwarding, "permittunnel"):
        assert sshd[detour] == "no", detour


def test_a_node_trusts_no_host_key_but_the_clusters():
    ssh = settings(IMAGE / "ssh_config")
    assert ssh["stricthostkeychecking"] == "yes"
    assert ssh["userknownhostsfile"] == "/home/horovod/.ssh/known_hosts"
    assert ssh["identitiesonly"] == "yes"
