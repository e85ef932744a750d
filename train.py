"""Train an ECG-text model: `python train.py --method merl --recipe quickstart`, or through `accelerate launch`."""

import sys

from hf_ecgtext_cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
