"""Elastic training: what was agreed in one world is forgotten in the next."""

import sys
from pathlib import Path

import pytest
from launcher import ROOT, horovodrun

PROGRAMS = Path(__file__).parent / "programs"


@pytest.mark.timeout(300)
def test_training_goes_on_while_the_world_grows_and_shrinks(tmp_path):
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
        *(sys.executable, PROGRAMS / "elastic.py", tmp_path),
        timeout=240,
        PYTHONPATH=str(ROOT / "tests" / "parallel"),
    )
    assert result.returncode == 0, result.stdout[-6000:]
    assert (tmp_path / "sizes").read_text() == "2 3 2"
