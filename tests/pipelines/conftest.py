"""The two pipelines of an untrained MERL."""

from __future__ import annotations

import pytest
from transformers import pipeline


@pytest.fixture(scope="module")
def classifier(merl_folder):
    return pipeline("zero-shot-ecg-classification", model=str(merl_folder))


@pytest.fixture(scope="module")
def extractor(merl_folder):
    return pipeline("ecg-feature-extraction", model=str(merl_folder))
