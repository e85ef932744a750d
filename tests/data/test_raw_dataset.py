"""Training straight from an original download."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from make_mimic import write_mimic_tree

from hf_ecgtext.data.files.tree import LocalTree
from hf_ecgtext.data.sources.dataset import RawEcgDataset
from hf_ecgtext.data.sources.mimic_iv_ecg import MimicIvEcg
from hf_ecgtext.data.store.block_order import BlockOrder
from hf_ecgtext.errors import RecordError

NUM_RECORDS = 150


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mimic")
    studies = write_mimic_tree(folder, NUM_RECORDS, num_samples=200, short_reports=0.0)
    return folder, {str(study.study_id): study for study in studies}


@pytest.fixture
def dataset(tree):
    return open_raw(tree[0])


def open_raw(folder, source_class=MimicIvEcg, **options):
    source = source_class(LocalTree(folder), min_words=0)
    return RawEcgDataset(source, source.index().records, **options)


def broken_tree(tmp_path, broken=(3, 70)):
    studies = write_mimic_tree(tmp_path, 100, num_samples=50, short_reports=0.0)
    ids = [str(study.study_id) for study in studies]
    order = open_raw(tmp_path).column("record_id")
    for number in broken:
        path = tmp_path / (studies[ids.index(order[number])].path + ".dat")
        path.write_bytes(path.read_bytes()[:100])
    return order


def test_rows_are_the_files_of_the_download(tree, dataset):
    _, studies = tree
    assert len(dataset) == NUM_RECORDS
    assert dataset.block_sizes.tolist() == [1] * NUM_RECORDS
    items = dataset.__getitems__([149, 0, 77, -1])
    assert [item["index"] for item in items] == [149, 0, 77, 149]
    for item in items:
        study = studies[item["ecg"].record_id]
        assert item["ecg"].patient_id == str(study.subject_id)
        assert item["ecg"].report == study.report
        assert item["ecg"].samples.dtype == np.int16
        np.testing.assert_array_equal(item["ecg"].samples, study.adc())
    assert dataset[5]["ecg"].record_id == dataset.column("record_id")[5]
    with pytest.raises(IndexError, match="no record 150"):
        dataset[150]


def test_columns_of_the_tables_come_without_reading_files(tree, dataset, monkeypatch):
    _, studies = tree
    monkeypatch.setattr(LocalTree, "read", None)
    ids = dataset.column("record_id")
    assert set(ids) == set(studies)
    assert dataset.column("report") == [studies[record_id].report for record_id in ids]
    assert dataset.unique_reports() == list(dict.fromkeys(dataset.column("report")))
    with pytest.raises(KeyError, match="No column 'path'"):
        dataset.column("path")


class ReportsInFiles(MimicIvEcg):
    """A source whose tables have no reports, like those that keep everything in the header."""

    def index(self):
        found = super().index()
        names = ["in_the_file" if name == "report" else name for name in found.records.column_names]
        return type(found)(found.records.rename_columns(names))

    def decode(self, entry, contents):
        return super().decode({**entry, "report": entry["in_the_file"]}, contents)


def test_columns_that_no_table_has_are_read_from_the_records(tree, dataset):
    other = open_raw(tree[0], ReportsInFiles)
    assert "report" not in other.records.column_names
    assert other.column("report") == dataset.column("report")
    assert other.unique_reports() == dataset.unique_reports()
    with pytest.raises(KeyError, match="do not fit into memory"):
        other.column("samples")


def test_a_bad_record_is_named_with_what_to_do(tmp_path):
    order = broken_tree(tmp_path)
    dataset = open_raw(tmp_path)
    assert len(dataset.__getitems__(range(3))) == 3
    with pytest.raises(RecordError, match=f"Record '{order[3]}'.*`hf-ecgtext prepare`.*bad_records=replace"):
        dataset.__getitems__(range(5))


def test_a_bad_record_can_be_replaced_by_always_the_same_other_one(tmp_path, caplog):
    order = broken_tree(tmp_path)
    dataset = open_raw(tmp_path, bad_records="replace")
    with caplog.at_level(logging.WARNING):
        items = dataset.__getitems__(range(100))
    for place in (3, 70):
        replacement = items[place]
        assert replacement["ecg"].record_id == order[replacement["index"]] not in (order[3], order[70])
    others = [place for place in range(100) if place not in (3, 70)]
    assert [items[place]["index"] for place in others] == others
    assert sorted(order[3] in text for text in caplog.messages) == [False, True], "each is logged once"

    again = open_raw(tmp_path, bad_records="replace")
    assert again[70]["index"] == items[70]["index"]
    caplog.clear()
    assert dataset[3]["index"] == items[3]["index"]
    assert not caplog.messages
    assert dataset.column("record_id") == [item["ecg"].record_id for item in items], "columns fit the records"


def test_a_download_without_usable_records_is_not_searched_forever(tmp_path):
    broken_tree(tmp_path, range(100))
    with pytest.raises(RecordError, match=r"100 other records .* Check that the download is complete"):
        open_raw(tmp_path, bad_records="replace")[0]


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_every_record_once(dataset, context):
    order = BlockOrder(dataset.block_sizes, 16, num_workers=2, drop_last=False)
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=order, num_workers=2, collate_fn=record_ids, multiprocessing_context=context
    )
    found = [record_id for batch in loader for record_id in batch]
    assert sorted(found) == sorted(dataset.column("record_id"))


def record_ids(items):
    return [item["ecg"].record_id for item in items]


def test_it_can_be_pickled(dataset):
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    assert copy[9]["ecg"].record_id == dataset[9]["ecg"].record_id


def test_impossible_arguments_are_refused(dataset):
    with pytest.raises(ValueError, match='"raise" or "replace"'):
        RawEcgDataset(dataset.source, dataset.records, bad_records="ignore")
    none = dataset.records.filter(pc.equal(dataset.records.column("split"), "nowhere"))
    with pytest.raises(ValueError, match="no record for this split"):
        RawEcgDataset(dataset.source, none)
