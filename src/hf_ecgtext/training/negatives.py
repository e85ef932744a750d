"""From a run's datasets and a text encoder to the sampler of its negative reports."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from hf_ecgtext.encoders.text import load_text_model, text_max_length
from hf_ecgtext.errors import RecordError
from hf_ecgtext.methods.base import EcgTextModel
from hf_ecgtext.processing import REPORT_CLEANERS, EcgTextProcessor
from hf_ecgtext.processing.tokenizing import prepare_tokenizer, tokenize
from hf_ecgtext.training.arguments import EcgTextTrainingArguments
from hf_ecgtext.training.negative_sampler import NegativeKind, NegativeSampler, distinct_reports, import_faiss

MAX_LENGTH = 256  # tokens; as released


@torch.no_grad()
def embed_reports(
    reports: Sequence[str],
    name_or_path: str,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    show_progress: bool = True,
) -> NDArray[np.float32]:
    """Mean of a text encoder's last layer over the real tokens of each report, L2-normalised.

    Args:
        reports (`Sequence[str]`): Cleaned reports; beyond 256 tokens, or what the encoder reads, nothing is read.
        name_or_path (`str`): What [`~hf_ecgtext.encoders.text.load_text_model`] takes.
        batch_size (`int`): Reports per forward pass.
        device (`torch.device` or `str`): Where to run the encoder.
        show_progress (`bool`): Show a progress bar.

    Returns:
        `np.ndarray` of shape `(num_reports, hidden_size)`.

    Raises:
        RecordError: If the tokenizer makes nothing of a report.
        ValueError: If the encoder cannot be loaded.

    Source: C-MELT's release (`n3s.py`): Flan-T5-small. Deviation: the release averages over padding too while
    it builds its index but not for its queries, so that the two do not match; here neither does.
    """
    try:
        model, tokenizer = load_text_model(name_or_path, "mean")
    except OSError as error:
        raise ValueError(
            f"negative_embedding_model='{name_or_path}' cannot be loaded. Give a model of the Hub, a local folder, or "
            f"'minilm', which needs no download. The cause: {error}"
        ) from error
    model.eval().to(device)
    tokenizer = prepare_tokenizer(tokenizer)
    max_length = min(MAX_LENGTH, tokenizer.model_max_length, text_max_length(model.config) or MAX_LENGTH)
    order = sorted(range(len(reports)), key=lambda row: len(reports[row]))  # so that little is padded
    embeddings = np.empty((len(reports), model.config.hidden_size), dtype=np.float32)
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc="Embedding distinct reports", unit="batch", disable=None if show_progress else True):
        rows = order[start : start + batch_size]
        tokens = tokenize(tokenizer, [reports[row] for row in rows], max_length).convert_to_tensors("pt").to(device)
        mask = tokens["attention_mask"]
        for row, has_token in zip(rows, mask.any(dim=1).tolist(), strict=True):
            if not has_token:
                name = textwrap.shorten(reports[row], 60)
                raise RecordError(name, f"'{name_or_path}' makes no token of this report.", "Drop the record.")
        hidden = model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
        sums = (hidden * mask.unsqueeze(-1)).sum(dim=1)  # its length is left to the normalisation
        embeddings[rows] = torch.nn.functional.normalize(sums.float(), dim=-1).cpu().numpy()
    return embeddings


def build_negative_sampler(
    model: EcgTextModel,
    args: EcgTextTrainingArguments,
    processor: EcgTextProcessor,
    train_dataset: Any,
    eval_datasets: Sequence[Any],
    show_progress: bool = True,
) -> NegativeSampler:
    """The sampler that `args.negative_sampling` asks for.

    Only reports of the training data are ever drawn: those of the validation data get candidates among them, and stay
    out of the training. Two reports are the same if the processor's cleaning makes them so.

    Args:
        model ([`EcgTextModel`]): Its method must use negatives.
        args ([`EcgTextTrainingArguments`]): Say which negatives and how many.
        processor ([`~hf_ecgtext.processing.EcgTextProcessor`]): Its cleaning decides which reports are the same.
        train_dataset, eval_datasets: With `unique_reports()`, such as [`~hf_ecgtext.data.store.schema.EcgDataset`].
        show_progress (`bool`): Show progress bars.

    Raises:
        ImportError: If faiss is needed and not installed.
        RecordError: If a report is empty after cleaning and the processor refuses such.
        ValueError: If the method does not use negatives, a dataset cannot list its reports, the embedding model cannot
            be loaded, or there are fewer than two distinct reports.
    """
    kind: NegativeKind | None = args.negative_sampling
    if kind is None:
        raise ValueError("negative_sampling is None: there is nothing to build.")
    if not model.uses_negatives:
        raise ValueError(
            f"negative_sampling='{kind}', but {type(model).__name__} does not use negatives; its loss takes every "
            "report for the record's own. Leave negative_sampling out."
        )
    for dataset in (train_dataset, *eval_datasets):
        if not hasattr(dataset, "unique_reports"):
            raise ValueError(
                f"negative_sampling='{kind}' needs all reports beforehand, and {type(dataset).__name__} cannot list "
                "them. Use an EcgDataset, or give the dataset a method unique_reports()."
            )
    if kind != "random":
        import_faiss()  # now, and not after all reports have been embedded
    clean = REPORT_CLEANERS[processor.report_cleaning]
    drawable = distinct_reports(train_dataset.unique_reports(), clean)
    evaluated = [report for dataset in eval_datasets for report in dataset.unique_reports()]
    reports = distinct_reports([*drawable, *evaluated], clean)  # those of the training data stay in front
    cleaned = [clean(report) for report in reports]
    if processor.empty_report == "raise":
        for report, text in zip(reports, cleaned, strict=True):
            if not text.strip():
                raise RecordError(
                    textwrap.shorten(report, 60),
                    f"the report is empty after cleaning by {processor.report_cleaning!r}.",
                    'Drop the record, or set empty_report="keep".',
                )
    embeddings = None
    if kind != "random":
        embeddings = embed_reports(
            cleaned, args.negative_embedding_model, args.text_cache_batch_size, args.device, show_progress
        )
    return NegativeSampler.from_embeddings(
        reports,
        embeddings,
        kind=kind,
        num_candidates=args.num_negative_candidates,
        num_drawable=len(drawable),
        show_progress=show_progress,
        fraction=args.negative_fraction,
        seed=args.seed if args.data_seed is None else args.data_seed,
        clean=clean,
    )
