"""Data by name, and the questions that can be asked of it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data import sources
from hf_ecgtext.data.storage import EcgDataset


@dataclass(frozen=True)
class LabelTask:
    """A multi-label question about recordings.

    Args:
        name (`str`): Such as `"ptbxl_super"`.
        label_column (`str`): Column of the dataset that lists each record's labels.
        class_names (`Mapping[str, str]`): Label to readable name, such as `{"CD": "conduction disturbance"}`.
        class_members (`Mapping[str, tuple[str, ...]]`): For classes that group several statements, their names.
    """

    name: str
    label_column: str
    class_names: Mapping[str, str]
    class_members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def targets(self, dataset: EcgDataset) -> NDArray[np.int8]:
        """0/1 targets of shape `(num_records, num_classes)`, columns in the order of `class_names`.

        Raises:
            ValueError: If the dataset holds a label that the task does not name.
        """
        columns = {label: index for index, label in enumerate(self.class_names)}
        targets = np.zeros((len(dataset), len(columns)), dtype=np.int8)
        for row, labels in enumerate(dataset.column(self.label_column)):
            for label in labels:
                if label not in columns:
                    raise ValueError(f"Task '{self.name}' has no class '{label}'; its classes: {', '.join(columns)}.")
                targets[row, columns[label]] = 1
        return targets


@dataclass(frozen=True)
class EcgData:
    """Three splits without shared patients, and the tasks that their labels answer.

    Args:
        name (`str`): Name of the data.
        revision (`str`): Version, seed or fingerprint: what makes a result repeatable.
        train, validation, test ([`EcgDataset`]): Rows of records.
        tasks (`tuple[LabelTask, ...]`): Zero-shot questions.
    """

    name: str
    revision: str
    train: EcgDataset
    validation: EcgDataset
    test: EcgDataset
    tasks: tuple[LabelTask, ...] = field(default=())


def data_names() -> list[str]:
    """The data that [`open_data`] knows: the modules of `data.sources` that define `open_data`."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(sources.__path__)
        if hasattr(importlib.import_module(f"{sources.__name__}.{module.name}"), "open_data")
    )


def open_data(name: str, data_dir: str | Path | None = None, **options: Any) -> EcgData:
    """Open data by name.

    Args:
        name (`str`): One of [`data_names`].
        data_dir (`str` or `Path`, *optional*): Folder of the original download, where the data needs one.
        options: As the source's own `open_data` takes them, such as `sampling_rate_hz`.

    Raises:
        ValueError: If there is no such data, or it takes no such option.
    """
    names = data_names()
    if name not in names:
        raise ValueError(f"There is no data '{name}'. Known data: {', '.join(names)}.")
    return importlib.import_module(f"{sources.__name__}.{name}").open_data(data_dir=data_dir, **options)
