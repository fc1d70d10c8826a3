"""docker or podman, whichever is there: what docker/cluster asks of it."""

from __future__ import annotations

import resource
import shlex
import shutil
import subprocess
from pathlib import Path


class Failure(Exception):
    """What is wrong and what to do about it; the message that a user sees."""


class Engine:
    """docker or podman, and what differs between them."""

    def __init__(self, command: str | None) -> None:
        candidates = [shlex.split(command)] if command else [["docker"], ["podman"]]
        troubles = [(shlex.join(words), self._trouble(words)) for words in candidates]
        answering = [words for words, (_, trouble) in zip(candidates, troubles, strict=True) if trouble is None]
        if not answering:
            said = "\n".join(f"  {words}: {trouble}" for words, trouble in troubles)
            raise Failure(
                f"no container engine answers:\n{said}\ninstall docker or podman (Debian: apt-get install podman), or "
                "name yours, with its options: ENGINE=podman"
            )
        self.words = answering[0]
        # docker's command line may be podman's in disguise.
        self.is_podman = "podman" in self.said("--version").lower()

    @staticmethod
    def _trouble(words: list[str]) -> str | None:
        if shutil.which(words[0]) is None:
            return "not found"
        done = subprocess.run([*words, "ps", "-q"], capture_output=True, text=True, check=False)
        return (done.stderr.strip().splitlines() or ["?"])[-1] if done.returncode else None

    def said(self, *arguments: str) -> str:
        """What the engine prints; Failure with its own words where it fails."""
        done = subprocess.run([*self.words, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"`{shlex.join([*self.words, *arguments])}` failed:\n{done.stderr.strip()}")
        return done.stdout.strip()

    def does(self, *arguments: str) -> int:
        """Run with this process's input and output; its exit status."""
        return subprocess.run([*self.words, *arguments], check=False).returncode

    def has_image(self, image: str) -> bool:
        """Whether an image is on this machine."""
        inspected = subprocess.run([*self.words, "image", "inspect", image], capture_output=True, check=False)
        return inspected.returncode == 0

    def limits(self) -> list[str]:
        """podman asks for more files and processes than some machines let their users have, and fails."""
        if not self.is_podman:
            return []
        most_processes = int(Path("/proc/sys/kernel/pid_max").read_text())
        flags = []
        for name, which, most in (
            ("nofile", resource.RLIMIT_NOFILE, 1 << 20),
            ("nproc", resource.RLIMIT_NPROC, most_processes),
        ):
            hard = resource.getrlimit(which)[1]
            limit = most if hard == resource.RLIM_INFINITY else min(hard, most)
            flags += ["--ulimit", f"{name}={limit}:{limit}"]
        return flags
