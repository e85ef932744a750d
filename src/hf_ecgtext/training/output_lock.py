"""One training at a time writes into a folder, and all processes of a training agree on what they found there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist
from filelock import FileLock, Timeout

LOCK_FILE = ".training.lock"

Found = TypeVar("Found")


@contextmanager
def locked_output(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder against other trainings while the block runs; the process that leads holds it for all of its run.

    The lock belongs to the open file (`flock`), so that it goes with the process however that ends. The empty file
    stays. A training that holds the folder already may take it again. On file systems without locks, such as some
    network mounts, `filelock` raises an error.

    Args:
        folder (`str` or `Path`): Made where it is not there.

    Raises:
        FileExistsError: On every process, if another training writes into the folder.
    """
    lock = FileLock(Path(folder) / LOCK_FILE, is_singleton=True)

    def acquire() -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise FileExistsError(
                f"Another training is writing into '{folder}'. Wait for its end, or choose another --output-dir."
            ) from None

    found_by_main_process(acquire)
    try:
        yield
    finally:
        if _is_main_process():
            lock.release()


def found_by_main_process(find: Callable[[], Found]) -> Found:
    """What the first process finds, on all of them: what each looked up on its own could have changed in between.

    Args:
        find (`Callable`): Run by the first process only; gives what can be pickled.

    Raises:
        OSError, ValueError: What `find` raises, on every process; anything else ends the first process alone.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return find()
    outcome: list[tuple[Found | None, OSError | ValueError | None]] = [(None, None)]
    if _is_main_process():
        try:
            outcome = [(find(), None)]
        except (OSError, ValueError) as error:
            outcome = [(None, error)]
    dist.broadcast_object_list(outcome, src=0)
    found, problem = outcome[0]
    if problem is not None:
        raise problem
    return found  # type: ignore[return-value]


def _is_main_process() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
