"""Turn weights that the authors of MERL, DERI or D-BETA (C-MELT) published into a folder that `from_pretrained` loads.

    python examples/convert_weights.py res18_best_encoder.pth --output-dir merl-res18-encoder

The method is recognised from the names of the weights; a pickle's code is never run, and what does not fit completely
is refused. Whole models also need their text encoder's name: `--text-model ncbi/MedCPT-Query-Encoder`.
"""

import argparse
import sys

import torch
from transformers import AutoFeatureExtractor, AutoModel

import hf_ecgtext  # noqa: F401  (registers models)
from hf_ecgtext.cli import main as hf_ecgtext_command
from hf_ecgtext.data.synthetic import SyntheticEcgGenerator


def main() -> int:
    """Convert, load the folder again, and encode a recording with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--text-model")
    arguments = parser.parse_args()

    text = ["--text-model", arguments.text_model] if arguments.text_model else []
    code = hf_ecgtext_command(["convert", arguments.checkpoint, "--output-dir", arguments.output_dir, *text])
    if code:
        return code
    model = AutoModel.from_pretrained(arguments.output_dir).eval()
    extractor = AutoFeatureExtractor.from_pretrained(arguments.output_dir)
    record = next(iter(SyntheticEcgGenerator(seed=0).records(1)))
    inputs = extractor([record], return_tensors="pt")
    with torch.no_grad():
        encoder = getattr(model, "ecg_encoder", model)  # the whole model, or its ECG encoder alone
        pooled = encoder(inputs["ecg_values"]).pooler_output
    print(f"{type(model).__name__} reads leads {', '.join(extractor.lead_names)}; a recording becomes {pooled.shape}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
