"""Features of whole splits, computed once per encoder and kept in memory-mapped files.

A folder of the cache is one encoder on one split: its arrays, and a description with the ids of the records. Its name
is a hash of all that decides the numbers. It is filled under a lock, batch by batch; a killed run goes on where it was,
and the finished folder appears at once. Records stand in the order of their ids, whatever the order on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from hf_ecgtext.data.tasks import EcgData, EcgRows
from hf_ecgtext.errors import RecordError
from hf_ecgtext.evaluation.encoders.frozen import FrozenEncoder, canonical_order
from hf_ecgtext.io import full_disk_named, hash_of_json, written_whole

_VERSION = 1
"""To be raised when the same identity would give other numbers."""

_SAVE_EVERY = 20  # batches

_GO_ON = (
    "Features that are finished stay. Make room, or name another folder by --cache, then run the same command again"
)


@dataclass(frozen=True, eq=False)
class SplitFeatures:
    """Features of one split.

    Args:
        record_ids (`tuple[str, ...]`): Ascending; the rows of the arrays.
        arrays (`dict[str, np.ndarray]`): float32 of shape `(num_records, dim)`, memory-mapped: `"probe"`, and
            `"ecg_embeds"` of encoders with a text tower.
    """

    record_ids: tuple[str, ...]
    arrays: dict[str, NDArray[np.float32]]


class FeatureCache:
    """Features by encoder, data and split.

    Args:
        folder (`str` or `Path`): Made if absent. Several processes may share it.
        batch_size (`int`): Records per forward pass.
        num_workers (`int`): Processes that read records.
        show_progress (`bool`): Show a progress bar.
    """

    def __init__(self, folder: str | Path, *, batch_size: int = 64, num_workers: int = 0, show_progress: bool = True):
        self.folder = Path(folder)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.show_progress = show_progress
        self._opened: dict[str, SplitFeatures] = {}

    def features(self, encoder: FrozenEncoder, data: EcgData, split: str) -> SplitFeatures:
        """The features of a split, computed where they are not there yet.

        Raises:
            RecordError: If the encoder gives NaN or infinite features for a record.
            NoRoomError: If the features do not fit on the disk; known before the first of them is kept.
            ValueError: If the data has no such split, or a record id occurs twice.
        """
        rows, encoder = data.split(split), encoder.for_data(data.name)
        order, record_ids = canonical_order(data, split)
        description = {
            "version": _VERSION,
            "encoder": encoder.identity(),
            "data": data.name,
            "revision": data.revision,
            "split": split,
            "records": hashlib.sha256("\n".join(record_ids).encode()).hexdigest(),
            "batch_size": self.batch_size,  # decides the last bits of a convolution
        }
        key = _key(description)
        if key not in self._opened:
            folder = self.folder / key
            if not folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(self.folder / f"{key}.lock"), full_disk_named(folder, _GO_ON):
                    if not folder.is_dir():
                        self._fill(folder, encoder, rows, order, record_ids, description)
            arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
            self._opened[key] = SplitFeatures(record_ids, arrays)
        return self._opened[key]

    def texts(self, encoder: FrozenEncoder, texts: Sequence[str]) -> NDArray[np.float32]:
        """The embeddings of some texts, in their order; as [`FrozenEncoder.embed_texts`].

        What the text tower gives is kept, once for all encoders that share it. A list is the unit, since the texts of
        a batch decide each other's last bits.
        """
        content = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        key = _key({"version": _VERSION, "tower": encoder.tower_identity(), "texts": content})
        path = self.folder / f"{key}.npy"
        if not path.is_file():
            with written_whole(path) as unfinished, open(unfinished, "wb") as file:
                np.save(file, encoder.pool_texts(texts))
        return encoder.embed_pooled(np.load(path, mmap_mode="r"))

    def _fill(
        self,
        folder: Path,
        encoder: FrozenEncoder,
        rows: EcgRows,
        order: NDArray[np.int64],
        record_ids: tuple[str, ...],
        description: dict[str, Any],
    ) -> None:
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        progress = unfinished / "progress.json"
        if unfinished.is_dir() and not progress.is_file():
            shutil.rmtree(unfinished)
        unfinished.mkdir(exist_ok=True)
        done = json.loads(progress.read_text())["done"] if progress.is_file() else 0
        arrays: dict[str, Any] = (
            {path.stem: np.load(path, mmap_mode="r+") for path in unfinished.glob("*.npy")} if done else {}
        )
        subset: Any = Subset(rows, order[done:].tolist())  # type: ignore[arg-type]
        loader = DataLoader(subset, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=_ecgs)
        bar = tqdm(
            loader,
            desc=f"{description['data']} {description['split']}",
            unit="batch",
            disable=None if self.show_progress else True,
            leave=False,
        )
        for number, ecgs in enumerate(bar, start=1):
            features = encoder.encode(ecgs)
            for name, values in features.items():
                _check_finite(values, record_ids[done : done + len(ecgs)], name)
                if name not in arrays:
                    shape = (len(record_ids), values.shape[1])
                    arrays[name] = _mapped_file(unfinished / f"{name}.npy", shape)
                arrays[name][done : done + len(ecgs)] = values
            done += len(ecgs)
            if number % _SAVE_EVERY == 0:
                for array in arrays.values():
                    array.flush()
                with written_whole(progress) as file:
                    file.write_text(json.dumps({"done": done}))
        for array in arrays.values():
            array.flush()
        arrays.clear()
        (unfinished / "description.json").write_text(json.dumps({**description, "record_ids": record_ids}, indent=1))
        progress.unlink(missing_ok=True)
        os.replace(unfinished, folder)


def _mapped_file(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    """A new array in a file that has all its room on the disk.

    A mapped file without gets it page by page as it is written to, and where there is none left, the system ends the
    process by SIGBUS, without a message.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        else:  # macOS and Windows: zeros take the room as well, only not at once
            file.seek(array.offset)
            for _ in range(shape[0]):
                file.write(bytes(4 * shape[1]))
    return array


def _ecgs(items: Sequence[dict[str, Any]]) -> list[Any]:
    return [item["ecg"] for item in items]


def _check_finite(values: NDArray[np.float32], record_ids: Sequence[str], name: str) -> None:
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        bad = [record_ids[place] for place in np.flatnonzero(~finite)[:5].tolist()]
        raise RecordError(
            ", ".join(bad),
            f"has NaN or infinite features ('{name}').",
            "Look at the recording with nan_policy='raise' of the processor, and for NaN in the weights.",
        )


def _key(description: dict[str, Any]) -> str:
    return hash_of_json(description)[:32]
