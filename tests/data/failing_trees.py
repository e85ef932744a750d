"""Downloads whose files fail in ways a test chooses; in a module of its own, so that worker processes can import it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from hf_ecgtext.data.files.tree import LocalTree


class FailingTree(LocalTree):
    """A folder; while `flag` exists, the signal file of record `number` (counted from 0 in each process) fails.

    Args:
        folder: The download.
        flag: File that switches the failure on.
        number: Of the first record that fails; so do all that follow.
        failure: `"unreachable"`, `"interrupt"` or `"kill"`.
    """

    def __init__(self, folder: Path, flag: Path, number: int, failure: str):
        super().__init__(folder)
        self.flag, self.number, self.failure = flag, number, failure
        self.reads = 0

    def read_many(self, paths):
        return {path: self._read(path) for path in paths}

    def _read(self, path: str):
        if path.endswith(".dat"):
            self.reads += 1
            if self.reads > self.number and self.flag.exists():
                if self.failure == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if self.failure == "interrupt":
                    raise KeyboardInterrupt
                return ConnectionError("the server does not answer")
        try:
            return self.read(path)
        except OSError as error:
            return error
