"""Recordings without signals, and an encoder that looks their features up in a table: the frame without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hf_ecgtext.data.tasks import EcgData, LabelTask
from hf_ecgtext.evaluation.encoders.frozen import FrozenEncoder


class TableRows:
    """A split as dicts of columns; the "ecg" of each row is its record id."""

    def __init__(self, rows: Sequence[Mapping]):
        self.rows = list(rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"ecg": self.rows[index]["record_id"], "index": index}

    def __getitems__(self, indices):
        return [self[index] for index in indices]

    def column(self, name):
        return [row.get(name) for row in self.rows]

    def unique_reports(self):
        return list(dict.fromkeys(report for report in self.column("report") if report is not None))


def table_data(name="table", tasks: Sequence[LabelTask] = (), **splits: Sequence[Mapping]) -> EcgData:
    given = {split: TableRows(splits[split]) if split in splits else None for split in ("train", "validation", "test")}
    return EcgData(name=name, revision="1", tasks=tuple(tasks), **given)


class TableEncoder(FrozenEncoder):
    """Features by record id and embeddings by text, all of them L2-normalised here."""

    def __init__(self, ecgs: Mapping[str, np.ndarray], texts: Mapping[str, np.ndarray] | None = None, name="table"):
        self.ecgs, self.texts, self.name = ecgs, texts, name

    def identity(self):
        return {"name": self.name}

    def encode(self, ecgs):
        rows = np.stack([np.asarray(self.ecgs[ecg], dtype=np.float32) for ecg in ecgs])
        return {"probe": rows, "ecg_embeds": normalised(rows)}

    def embed_texts(self, texts):
        return normalised(np.stack([np.asarray(self.texts[text], dtype=np.float32) for text in texts]))

    def clean_report(self, report):
        return report.lower()

    @property
    def has_text(self):
        return self.texts is not None


def normalised(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
