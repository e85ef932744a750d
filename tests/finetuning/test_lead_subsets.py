"""Hidden leads are absent: zero, masked, and without influence on what is left."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.errors import RecordError
from hf_ecgtext.finetuning.labelled_records import Preparation
from hf_ecgtext.finetuning.lead_subsets import LEAD_SUBSETS, lead_subset, restrict_extractor, restrict_leads
from hf_ecgtext.leads import STANDARD_LEADS
from hf_ecgtext.processing import EcgFeatureExtractor

SCALINGS = ("none", "minmax_record", "zscore_lead", "zscore_record")


def extractor(**settings) -> EcgFeatureExtractor:
    return EcgFeatureExtractor(sampling_rate_hz=100, duration_s=10, check_limb_leads="off", **settings)


def inputs(ecg, number, scaling, pack=False) -> dict[str, torch.Tensor]:
    preparation = Preparation.of(extractor(scaling=scaling), lead_subset(number))
    if pack:
        return preparation.extractor.unpack(preparation.extractor.pack([preparation.training_window(ecg)]))
    return dict(preparation.extractor(preparation.windows(ecg), return_tensors="pt"))


@pytest.fixture(scope="module")
def stored(synthetic_dataset):
    return synthetic_dataset[3]["ecg"]


def test_the_subsets_are_the_published_ones():
    assert LEAD_SUBSETS == {
        12: STANDARD_LEADS,
        6: ("I", "II", "III", "aVR", "aVL", "aVF"),
        3: ("I", "II", "V2"),
        2: ("I", "II"),
        1: ("I",),
    }
    with pytest.raises(ValueError, match="no subset of 4 leads; choose from 12, 6, 3, 2, 1"):
        lead_subset(4)


@pytest.mark.parametrize("number", LEAD_SUBSETS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_hidden_leads_are_zero_and_masked_and_cannot_be_read_out_of_the_others(stored, number, scaling):
    kept = torch.tensor([lead in LEAD_SUBSETS[number] for lead in STANDARD_LEADS])
    given = inputs(stored, number, scaling)
    assert torch.equal(given["lead_mask"][0], kept)
    assert not given["ecg_values"][0, ~kept].any()
    assert (given["ecg_values"][0, kept] != 0).any(dim=-1).all()

    samples = np.array(stored.samples)
    samples[~kept.numpy()] = samples[~kept.numpy()][:, ::-1] * 3 - 50
    changed = dataclasses.replace(stored, samples=samples)
    assert torch.equal(inputs(changed, number, scaling)["ecg_values"], given["ecg_values"])


@pytest.mark.parametrize("number", LEAD_SUBSETS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_training_and_evaluation_read_the_same(stored, number, scaling):
    packed, given = (inputs(stored, number, scaling, pack) for pack in (True, False))
    torch.testing.assert_close(packed["ecg_values"], given["ecg_values"], rtol=1e-5, atol=1e-6)
    assert torch.equal(packed["lead_mask"], given["lead_mask"])


def test_absent_limb_leads_are_derived_only_where_all_of_them_are_asked_for(stored):
    record = stored.to_record()
    rows = [record.lead_names.index(lead) for lead in ("II", "V2", "I")]
    three = EcgRecord(record.signal[rows], record.sampling_rate_hz, ("II", "V2", "I"), "three")
    assert inputs(three, 6, "none")["lead_mask"].sum() == 6
    assert inputs(three, 3, "none")["lead_mask"].sum() == 3
    assert inputs(three, 2, "none")["lead_mask"].sum() == 2
    assert inputs(three, 1, "none")["lead_mask"].sum() == 1
    assert inputs(three, 12, "none")["lead_mask"].sum() == 7


def test_leads_are_taken_by_name_whatever_the_spelling_and_order():
    signal = np.arange(12, dtype=np.float32).reshape(4, 3)
    record = EcgRecord(signal, 100.0, ("v2", "MDC_ECG_LEAD_II", "DI", "aVR"), record_id="x")
    restricted = restrict_leads(record, LEAD_SUBSETS[2])
    assert restricted.lead_names == ("MDC_ECG_LEAD_II", "DI")
    np.testing.assert_array_equal(restricted.signal, signal[[1, 2]])
    assert restricted.record_id == "x"
    assert restrict_leads(restricted, LEAD_SUBSETS[2]) is restricted


def test_a_record_or_a_model_without_the_leads_is_refused_by_name():
    record = EcgRecord(np.zeros((2, 5), np.float32), 100.0, ("V1", "V2"), record_id="JS1")
    with pytest.raises(RecordError, match=r"JS1.*none of the leads I, only V1, V2"):
        restrict_leads(record, LEAD_SUBSETS[1])
    with pytest.raises(ValueError, match="none of the leads I"):
        restrict_extractor(extractor(lead_names=["V1"]), LEAD_SUBSETS[1])
    with pytest.raises(ValueError, match="missing_leads"):
        restrict_extractor(extractor(missing_leads="raise"), LEAD_SUBSETS[2])


def test_the_given_extractor_is_left_as_it_is():
    given = extractor()
    assert not restrict_extractor(given, LEAD_SUBSETS[2]).derive_limb_leads
    assert given.derive_limb_leads
