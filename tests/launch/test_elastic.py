"""Elastic training: what was agreed in one world is forgotten in the next."""

import json
import os
import re
import signal
import sys
from pathlib import Path
from threading import Timer

import pytest
from launcher import ROOT, horovodrun, start_horovodrun

PROGRAMS = Path(__file__).parent / "programs"
#: More than the training gets through while horovodrun, which looks once a second, finds out that hosts have changed.
EPOCHS = 60


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["plain", "feedback", "two_phase", "marsit", "dqsgd", "gradiveq"])
def test_training_goes_on_while_the_world_grows_and_shrinks(tmp_path, mode):
    discover = tmp_path / "discover.sh"
    discover.write_text(
        "#!/bin/sh\n"
        f'case "$(cat {tmp_path}/resizes 2>/dev/null)" in\n'
        "1) echo localhost:3 ;;\n"
        "*) echo localhost:2 ;;\n"
        "esac\n"
    )
    discover.chmod(0o755)
    result = horovodrun(
        *("-np", "2", "--min-np", "2", "--max-np", "3", "--gloo"),
        # With one host horovodrun does not look for interfaces itself.
        *("--network-interfaces", "lo", "--host-discovery-script", discover),
        *(sys.executable, PROGRAMS / "elastic.py", tmp_path, mode),
        timeout=240,
        PYTHONPATH=str(ROOT / "tests" / "parallel"),
    )
    assert result.returncode == 0, result.stdout[-6000:]
    assert (tmp_path / "sizes").read_text() == "2 3 2"
    # Rank 0 lives through both resizes.
    assert (tmp_path / "kept").read_text() == ("xx" if mode == "feedback" else "")


class Cluster:
    """This machine under two names, as horovodrun never starts anything again on a host on which a rank has died."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.discover = folder / "discover.sh"
        self.discover.write_text(f"#!/bin/sh\ncat {folder}/hosts\n")
        self.discover.chmod(0o755)

    def offer(self, **slots: int) -> None:
        """Let so many ranks run on each host."""
        text = "".join(f"{self._address(host)}:{count}\n" for host, count in slots.items())
        # At once: the script may be reading.
        (self._folder / "new").write_text(text)
        (self._folder / "new").replace(self._folder / "hosts")

    def noted(self, *command: str | Path) -> list[str | Path]:
        """``command``, whose process number is written down before it begins."""
        return ["sh", "-c", 'echo $$ >"$0/$HOROVOD_HOSTNAME.$HOROVOD_LOCAL_RANK"; exec "$@"', self._folder, *command]

    def kill(self, host: str, local_rank: int) -> None:
        """As the kernel does when memory runs out: nobody is told."""
        os.kill(int((self._folder / f"{self._address(host)}.{local_rank}").read_text()), signal.SIGKILL)

    @staticmethod
    def _address(host: str) -> str:
        return {"steady": "localhost", "frail": "127.0.0.1"}[host]


@pytest.mark.timeout(300)
def test_the_digits_are_learnt_though_hosts_come_and_a_rank_is_killed(tmp_path):
    cluster = Cluster(tmp_path)
    cluster.offer(steady=1, frail=1)
    report = tmp_path / "report.json"
    example = [sys.executable, ROOT / "examples" / "torch_elastic_digits.py", "--bits", "4", "--report", report]
    process = start_horovodrun(
        *("-np", "2", "--min-np", "1", "--max-np", "3", "--gloo"),
        *("--network-interfaces", "lo", "--host-discovery-script", cluster.discover),
        *cluster.noted(*example, "--epochs", str(EPOCHS)),
    )
    # Reading must come to an end before pytest's own does away with all tests.
    alarm = Timer(280, process.kill)
    alarm.start()
    worlds: list[tuple[int, int, int]] = []
    killed_at = None
    said = []
    with process:
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"world: (\d+) ranks from epoch (\d+), batch (\d+)", line):
                worlds.append(tuple(map(int, found.groups())))
                if len(worlds) == 1:
                    cluster.offer(steady=1, frail=2)
                elif len(worlds) == 3:
                    cluster.offer(steady=2, frail=2)
            elif found := re.search(rf" (\d+)/{EPOCHS} ", line):
                epoch = int(found[1])
                if len(worlds) == 2 and killed_at is None and epoch > worlds[-1][1] + 1:
                    killed_at = epoch
                    cluster.kill("frail", local_rank=1)
    alarm.cancel()
    tail = "".join(said)[-6000:]
    assert process.returncode == 0, tail
    # The host is gone with its rank. A rank by itself goes on, and is joined by another.
    assert [size for size, _, _ in worlds] == [2, 3, 1, 2], tail
    places = [(epoch, batch) for _, epoch, batch in worlds]
    assert places == sorted(places)
    assert places[2][0] >= killed_at - 1  # what was committed last is not lost
    result = json.loads(report.read_text())
    assert result["ranks"] == 2
    assert result["accuracy"] > 0.9
    assert result["uncompressed_bytes_per_step"] / result["bytes_per_step"] > 7
