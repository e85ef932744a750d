"""Cost of negative reports: in the collator, and against a search at draw time as published.

The first part collates 64 records of 12 x 5000 samples with their reports, tokenised, with a sampler of "far" negatives
and without; the two take turns on each batch, in turned order from round to round, and a first round is not counted. It
counts CPU time of the process, which other programs on the machine disturb less.

The second part takes random unit vectors in the place of report embeddings. "ours" searches once for the candidates of
all reports, then draws. "published" does a flat search for each negative while it is drawn; the text encoder that the
published code runs there too, once per negative, is left out, which favours it. An epoch has as many records per report
as MIMIC-IV-ECG, 780,000 / 180,000, and replaces half of them; the published side is scaled up from some searches.

    OMP_NUM_THREADS=1 python benchmarks/negatives.py
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.data.report_cleaning import clean_mimic_report
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator
from hf_ecgtext.encoders.text import tiny_bert_tokenizer
from hf_ecgtext.processing import EcgFeatureExtractor, EcgTextProcessor
from hf_ecgtext.training.collator import EcgTextCollator
from hf_ecgtext.training.negative_sampler import NegativeSampler, distinct_reports, import_faiss
from hf_ecgtext.training.negatives import embed_reports

BATCH_SIZE = 64
RECORDS_PER_REPORT = 780_000 / 180_000
NUM_CANDIDATES = 64


def collating(num_batches: int, rounds: int) -> None:
    """Print CPU milliseconds per batch with and without negatives, and their ratio."""
    records: list[EcgRecord] = list(SyntheticEcgGenerator(seed=0).records(num_batches * BATCH_SIZE))
    batches = [
        [{"ecg": record} for record in records[start : start + BATCH_SIZE]]
        for start in range(0, len(records), BATCH_SIZE)
    ]
    processor = EcgTextProcessor(
        EcgFeatureExtractor(scaling="minmax_record"), tiny_bert_tokenizer(), report_cleaning="mimic"
    )
    reports = distinct_reports([record.report or "" for record in records], clean_mimic_report)
    embeddings = embed_reports([clean_mimic_report(report) for report in reports], "tiny-bert", show_progress=False)
    sampler = NegativeSampler.from_embeddings(
        reports, embeddings, num_candidates=NUM_CANDIDATES, clean=clean_mimic_report, show_progress=False
    )
    runs: dict[str, Callable[[list[dict[str, EcgRecord]]], object]] = {
        "without negatives": EcgTextCollator(processor),
        "with negatives": EcgTextCollator(processor, negatives=sampler),
    }
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in batches] for name in runs}
    for turn in range(rounds + 1):
        order = list(runs) if turn % 2 else list(reversed(runs))
        for number, batch in enumerate(batches):
            for name in order:
                start_s = time.process_time()
                runs[name](batch)
                if turn:
                    seconds[name][number].append(time.process_time() - start_s)
    best = {name: statistics.mean(min(times) for times in of_batches) for name, of_batches in seconds.items()}
    median = {name: statistics.median(itertools.chain(*of_batches)) for name, of_batches in seconds.items()}
    print(f"Collator: {BATCH_SIZE} records of 12 x 5000, {len(reports)} distinct reports, {rounds} rounds in turn")
    for name in runs:
        print(f"{name:20s} best {1e3 * best[name]:8.2f} ms   median {1e3 * median[name]:8.2f} ms per batch")
    first, second = runs
    ratios = best[second] / best[first], median[second] / median[first]
    print(f"ratio                best {ratios[0]:8.3f}      median {ratios[1]:8.3f}\n")


def searching(num_reports: int, dim: int, num_searches: int, rounds: int) -> None:
    """Print what an epoch's negatives cost searched once beforehand, and searched one by one."""
    faiss = import_faiss()
    embeddings = np.random.default_rng(0).standard_normal((num_reports, dim)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    reports = [f"report {number}" for number in range(num_reports)]
    index = faiss.IndexFlatL2(dim)  # the published kind
    index.add(embeddings)
    num_batches = max(num_searches // (BATCH_SIZE // 2), 1)
    build_s, draw_s, search_s = float("inf"), float("inf"), float("inf")
    for turn in range(rounds):
        start_s = time.perf_counter()
        sampler = NegativeSampler.from_embeddings(
            reports, embeddings, num_candidates=NUM_CANDIDATES, show_progress=False
        )
        build_s = min(build_s, time.perf_counter() - start_s)

        start_s = time.perf_counter()
        for batch in range(num_batches):
            rows = range(batch * BATCH_SIZE, (batch + 1) * BATCH_SIZE)
            sampler.draw([reports[row % num_reports] for row in rows], [f"{turn}-{row}" for row in rows])
        draw_s = min(draw_s, (time.perf_counter() - start_s) / (num_batches * BATCH_SIZE // 2))

        start_s = time.perf_counter()
        for row in range(num_searches):
            position = row % num_reports
            index.search(-embeddings[position : position + 1], NUM_CANDIDATES)
        search_s = min(search_s, (time.perf_counter() - start_s) / num_searches)
    num_negatives = round(0.5 * RECORDS_PER_REPORT * num_reports)
    ours_s, published_s = build_s + num_negatives * draw_s, num_negatives * search_s
    print(f"Search: {num_reports} reports x {dim}, {NUM_CANDIDATES} candidates, {num_negatives} negatives an epoch")
    print(
        f"ours       once {build_s:8.2f} s, then {1e6 * draw_s:8.1f} us per negative: {ours_s:8.1f} s in a first epoch"
    )
    print(
        f"published  {1e6 * search_s:8.1f} us per negative, scaled from {num_searches}: {published_s:8.1f} s an epoch"
    )
    print(f"ratio      {search_s / draw_s:8.1f} per draw, {published_s / ours_s:8.1f} over a first epoch")


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8, help="of the collator; the search takes three")
    parser.add_argument("--num-reports", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--num-searches", type=int, default=256)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    collating(arguments.num_batches, arguments.rounds)
    searching(arguments.num_reports, arguments.dim, arguments.num_searches, rounds=3)


if __name__ == "__main__":
    main()
