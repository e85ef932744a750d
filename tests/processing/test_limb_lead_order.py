from itertools import permutations

import numpy as np
import pytest

from hf_ecgtext.leads import MIMIC_LEADS, STANDARD_LEADS, limb_leads_from_i_and_ii
from hf_ecgtext.limb_lead_order import AUGMENTED_LEADS
from hf_ecgtext.processing import infer_limb_lead_order

LIMB = STANDARD_LEADS[:6]


def limb_leads(seed=0, num_samples=2000):
    lead_i, lead_ii = np.random.default_rng(seed).standard_normal((2, num_samples)) * [[0.4], [0.7]]
    return limb_leads_from_i_and_ii(lead_i, lead_ii)


@pytest.mark.parametrize("order", list(permutations(AUGMENTED_LEADS)))
def test_every_order_of_the_augmented_leads_is_recognised(order):
    signal = limb_leads()
    names = ("I", "II", "III", *order)
    stored = np.stack([signal[LIMB.index(name)] for name in names])
    assert infer_limb_lead_order(stored, names) == names
    assert infer_limb_lead_order(stored, LIMB) == names


def test_mimic_data_under_standard_names_is_recognised():
    signal = np.concatenate([limb_leads(), np.zeros((6, 2000))])
    stored = signal[[STANDARD_LEADS.index(name) for name in MIMIC_LEADS]]
    assert infer_limb_lead_order(stored, STANDARD_LEADS) == MIMIC_LEADS


def test_the_spelling_of_the_source_is_kept():
    swapped = limb_leads()[[0, 1, 2, 3, 5, 4]]
    inferred = infer_limb_lead_order(swapped, ("DI", "DII", "DIII", "AVR", "AVL", "AVF"))
    assert inferred == ("DI", "DII", "DIII", "AVR", "AVF", "AVL")


def test_offsets_of_single_leads_do_not_matter():
    signal = limb_leads() + np.arange(6)[:, None]
    assert infer_limb_lead_order(signal, LIMB) == LIMB


def test_flat_leads_decide_nothing():
    assert infer_limb_lead_order(np.zeros((6, 2000)), LIMB) is None


def test_noise_decides_nothing():
    for seed in range(50):
        noise = np.random.default_rng(seed).standard_normal((6, 2000))
        assert infer_limb_lead_order(noise, LIMB) is None


def test_equal_leads_i_and_ii_decide_nothing_because_avl_equals_avf():
    lead = np.random.default_rng(0).standard_normal(2000)
    signal = limb_leads_from_i_and_ii(lead, lead)
    assert infer_limb_lead_order(signal[[0, 1, 2, 3, 5, 4]], LIMB) is None


@pytest.mark.parametrize("wrong", [[1, 0, 2, 3, 4, 5], [2, 1, 0, 3, 4, 5], [0, 2, 1, 3, 4, 5], [5, 1, 2, 3, 4, 0]])
def test_wrong_leads_i_ii_or_iii_are_not_taken_for_another_order_of_the_augmented_leads(wrong):
    assert infer_limb_lead_order(limb_leads()[wrong], LIMB) is None


def test_a_record_without_lead_ii_decides_nothing():
    assert infer_limb_lead_order(limb_leads()[[0, 3, 4, 5]], ("I", "aVR", "aVL", "aVF")) is None


def test_noise_on_one_lead_does_not_make_a_right_record_wrong():
    signal = limb_leads()
    for amplitude in (0.05, 0.5, 5.0):
        signal[4] += amplitude * np.random.default_rng(1).standard_normal(2000)
        assert infer_limb_lead_order(signal, LIMB) in (None, LIMB)
