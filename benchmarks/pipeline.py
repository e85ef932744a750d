"""Recordings per CPU-second of the feature pipeline, one by one and in batches, beside calls by hand.

    python benchmarks/pipeline.py [--records 64] [--rounds 3]

The recordings are WFDB files of 10 s at 500 Hz, 12 leads; the encoder is MERL's ResNet18 at paper size, on one thread.
The baseline is what one would write without the pipeline: read_record, the processor and get_ecg_features, recording by
recording. All take turns, and the best round of each counts; that they agree is checked.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from long_recordings import write_recording

from hf_ecgtext.data import read_record
from hf_ecgtext.methods import get_recipe
from hf_ecgtext.pipelines import EcgFeatureExtractionPipeline

BATCH_SIZES = (1, 32)


def main() -> None:
    """Print a line per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    recipe = get_recipe("merl", "debug").override({"ecg.sampling_rate_hz": 500.0})
    recipe.config.ecg_config = get_recipe("merl", "paper").config.ecg_config
    model, processor = recipe.build(seed=0)
    model.eval()
    extractor = EcgFeatureExtractionPipeline(model=model, feature_extractor=processor.feature_extractor, device="cpu")

    def by_hand(paths: list[str]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [model.get_ecg_features(**processor(ecg=read_record(path)))[0].numpy() for path in paths]

    ways: dict[str, Callable[[list[str]], list[np.ndarray]]] = {"calls by hand, one by one": by_hand}
    for size in BATCH_SIZES:
        ways[f"pipeline, batch_size={size}"] = lambda paths, size=size: extractor(paths, batch_size=size)  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(write_recording(Path(folder), 10))] * arguments.records
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        features = {}
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                start = time.process_time()
                features[name] = np.stack(way(paths))
                seconds[name].append(time.process_time() - start)
    baseline = next(iter(ways))
    for name, found in features.items():
        np.testing.assert_allclose(found, features[baseline], atol=1e-5)
        rate, by_hand_rate = (arguments.records / min(seconds[way]) for way in (name, baseline))
        print(f"{name:26} {rate:6.1f} recordings per CPU-second, {rate / by_hand_rate:4.2f} times the calls by hand")


if __name__ == "__main__":
    main()
