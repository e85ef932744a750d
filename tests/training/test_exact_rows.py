"""Integers and bool among the rows of a loss, such as patient ids, reach it as they are: no float can hold them all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exact_rows_worker import EXACT_ROWS, PATIENT_IDS, model_of_patients
from gradient_cache_worker import build, gradients_of
from processes import launch
from safetensors.torch import load_file, save_file

from hf_ecgtext.training.collator import EcgTextCollator
from hf_ecgtext.training.gradient_cache import backward_in_chunks

pytestmark = pytest.mark.slow

WORKER = str(Path(__file__).with_name("exact_rows_worker.py"))
DOUBLE_TOLERANCE = {"rtol": 1e-8, "atol": 1e-10}


@pytest.fixture(scope="module")
def batch(synthetic_dataset) -> dict[str, torch.Tensor]:
    _, processor = build("etp")
    batch = EcgTextCollator(processor)(synthetic_dataset.__getitems__(range(8)))
    batch["ecg_values"] = batch["ecg_values"].double()
    return {**batch, "patient_id": torch.tensor(PATIENT_IDS), "is_adult": EXACT_ROWS["flags"]}


@pytest.fixture(scope="module")
def alone(batch) -> dict[str, torch.Tensor]:
    """The loss and its gradients in one process."""
    model = model_of_patients()
    loss = model(**batch).loss
    loss.backward()
    return {"loss": loss.detach(), **gradients_of(model)}


@pytest.fixture(scope="module")
def ranks(batch, tmp_path_factory) -> list[dict[str, torch.Tensor]]:
    """What two processes made of the two halves of the batch."""
    folder = tmp_path_factory.mktemp("exact_rows")
    save_file(batch, folder / "batch.safetensors")
    launch([WORKER, str(folder)], folder, num_processes=2)
    return [load_file(folder / f"rank{rank}.safetensors") for rank in range(2)]


def test_every_row_of_the_joined_batch_keeps_its_type_and_its_bits(ranks):
    for found in ranks:
        for name, expected in [*EXACT_ROWS.items(), ("alone", EXACT_ROWS["ids"])]:
            assert found[f"joined:{name}"].dtype == expected.dtype, name
            assert torch.equal(found[f"joined:{name}"], expected), name


def test_integers_take_a_second_collective_call_and_nothing_where_there_are_none(ranks):
    for found in ranks:
        assert found["calls"].tolist() == [2, 1, 1], "mixed, floating point only, integers only"


def test_the_ids_make_a_difference_to_the_loss_that_a_float_would_lose(batch, alone):
    rounded = {**batch, "patient_id": batch["patient_id"].double().long()}
    assert abs(model_of_patients()(**rounded).loss - alone["loss"]) > 1e-6
    other = {**batch, "is_adult": ~batch["is_adult"]}
    assert abs(model_of_patients()(**other).loss - alone["loss"]) > 1e-6


@pytest.mark.parametrize("kind", ["", "_in_chunks"])
def test_two_processes_have_the_loss_and_gradients_of_one(ranks, alone, kind):
    for found in ranks:
        torch.testing.assert_close(found[f"loss{kind}"], alone["loss"], **DOUBLE_TOLERANCE)
        prefix = f"gradient{kind}:"
        gradients = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
        assert gradients.keys() == alone.keys() - {"loss"}
        assert gradients["log_logit_scale"] > 0, "from beyond its bound the learned scale comes back on every process"
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, alone[name], **DOUBLE_TOLERANCE, msg=name)


def test_gradient_caching_leaves_ids_as_they_are_in_one_process(batch, alone):
    model = model_of_patients()
    loss, _ = backward_in_chunks(model, model, batch, chunk_size=3)
    torch.testing.assert_close(loss, alone["loss"], **DOUBLE_TOLERANCE)
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradient, alone[name], **DOUBLE_TOLERANCE, msg=name)


def test_rows_of_other_types_reach_the_loss_unchanged_in_one_process(batch, monkeypatch):
    seen = {}
    model = model_of_patients()
    rows = {"ecg": torch.ones(2, 3, dtype=torch.bfloat16), **{name: EXACT_ROWS[name] for name in ("ids", "flags")}}
    monkeypatch.setattr(model, "loss_terms", lambda rows: seen.update(rows) or {"contrastive": rows["ecg"].sum()})
    model.loss_from_rows(rows)
    assert seen["ecg"].dtype == torch.float32, "below that, similarities would be too coarse"
    assert torch.equal(seen["ids"], EXACT_ROWS["ids"])
    assert torch.equal(seen["flags"], EXACT_ROWS["flags"])
    assert seen["flags"].dtype == torch.bool
