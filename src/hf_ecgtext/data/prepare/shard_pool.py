"""Shards on several processes at once: progress, and an end to all of them when one fails or the user stops."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from hf_ecgtext.data.prepare.shard_writer import ShardJob, ShardWriter
from hf_ecgtext.errors import PreparationError

_SECONDS_BETWEEN_LOOKS = 0.2

_writer: ShardWriter  # of this worker process
_progress: Any


def write_shards(
    writer_arguments: Sequence[Any],
    jobs: Sequence[ShardJob],
    workers: int,
    on_progress: Callable[[int], None],
) -> None:
    """Write shards; those that are finished stay, whatever happens.

    Args:
        writer_arguments (`Sequence[Any]`): Of `ShardWriter`.
        jobs (`Sequence[ShardJob]`): What to write.
        workers (`int`): Processes; 1 means this one.
        on_progress (`Callable[[int], None]`): Called with the number of records that were worked off since.

    Raises:
        PreparationError: If a worker process died.
    """
    workers = min(workers, len(jobs))
    if workers <= 1:
        writer = ShardWriter(*writer_arguments)
        for job in jobs:
            writer.write(job, on_progress)
        return
    context = _process_context()
    counts = context.RawArray("q", len(jobs))  # one counter per shard needs no lock that a killed worker could hold
    lifeline, our_end = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(workers, context, _start_worker, (tuple(writer_arguments), counts, lifeline))
    try:
        with _interrupts_ignored():  # starting workers inherit that: Ctrl-C is this process's business
            waiting: set[Future[None]] = {executor.submit(_write, number, job) for number, job in enumerate(jobs)}
        shown = 0
        while waiting:
            done, waiting = wait(waiting, timeout=_SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
            if (now := sum(counts)) > shown:
                on_progress(now - shown)
                shown = now
            for future in done:
                future.result()
        executor.shutdown()
    except BrokenProcessPool as error:
        raise PreparationError(
            "a worker process died; the system may have killed it for lack of memory (then use fewer --workers)."
        ) from error
    finally:
        our_end.close()  # whoever is still at work stops at once: a half-written shard never counts
        executor.shutdown(cancel_futures=True)
        lifeline.close()


def _process_context() -> Any:
    # Not fork: threads of Arrow and of the progress bar may hold locks. A fork server imports this package once, which
    # takes seconds, and the workers are copies of it.
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _start_worker(writer_arguments: tuple[Any, ...], counts: Any, lifeline: Connection) -> None:
    global _writer, _progress
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    _writer = ShardWriter(*writer_arguments)
    _progress = counts


def _die_with_parent(lifeline: Connection) -> None:
    # The pipe closes when the parent stops, and also when it is killed, which a pool of Python does not notice.
    lifeline.poll(None)
    os._exit(1)


def _write(number: int, job: ShardJob) -> None:
    def count(records: int) -> None:
        _progress[number] += records

    _writer.write(job, count)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # where Python does not let us, nor sends any
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
