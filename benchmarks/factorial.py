"""What each difference between the strict and the published linear probe is worth, in points of macro AUROC.

Probes every checkpoint under the strict protocol, the published one, the strict one with each single published switch
and the published one with each single strict switch (`hf-ecgtext evaluate --protocols factorial`), and prints the mean
change of each. Checkpoints are evaluated one by one, so that none is compared with another; finished jobs are not done
again. The switch `long_records` acts on CPSC2018 only, and `class_columns` on PTB-XL's subclasses only.

    python benchmarks/factorial.py outputs/compare/* --data ptb_xl --data-dir path/to/ptb-xl
        --data-set missing=skip sampling_rate_hz=100 report=12sl --output-dir outputs/factorial
        --results results/ptb_xl_100hz.factorial.jsonl.gz

The lines of AUROC go to `--results`, from which `scripts/update_docs.py` makes the table behind
`<!-- factorial: NAME TASK -->`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from hf_ecgtext.commands.evaluate import load_model, open_all
from hf_ecgtext.evaluation.encoders.feature_cache import FeatureCache
from hf_ecgtext.evaluation.protocols import FACTORIAL_SWITCHES, factorial_protocols
from hf_ecgtext.evaluation.results import write_results
from hf_ecgtext.harness.matrix import run_matrix
from hf_ecgtext.harness.plan import MatrixPlan
from hf_ecgtext.reporting.tables.factorial import factorial_table


def main() -> None:
    """Evaluate what is not evaluated yet, write the lines, print the table and what each protocol took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--data", nargs="+", default=["ptb_xl"])
    parser.add_argument("--data-dir")
    parser.add_argument("--data-set", nargs="*", default=[])
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--switches", nargs="+", default=list(FACTORIAL_SWITCHES), choices=FACTORIAL_SWITCHES)
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.01, 0.1, 1.0])
    parser.add_argument("--resamples", type=int, default=100, help="the table prints no interval (default: 100)")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    data = open_all(arguments.data, arguments.data_dir, arguments.data_set)
    cache = FeatureCache(arguments.output_dir / "features")
    protocols = factorial_protocols(arguments.switches)
    lines, seconds = [], dict.fromkeys((protocol.name for protocol in protocols), 0.0)
    for place, checkpoint in enumerate(arguments.checkpoints):
        model = load_model(checkpoint, "cpu", "float32", 0)
        for protocol in protocols:
            plan = MatrixPlan(
                models=[model],
                data=data,
                tasks=arguments.tasks,
                evaluations=["linear_probe"],
                protocols=[protocol],
                fractions=arguments.fractions,
                num_resamples=arguments.resamples,
            )
            started = time.process_time()
            outcome = run_matrix(plan, arguments.output_dir / f"checkpoint_{place}", cache, show_progress=False)
            seconds[protocol.name] += time.process_time() - started
            if outcome.failed:
                raise SystemExit("; ".join(f"{title}: {problem}" for title, problem in outcome.failed.items()))
            lines += [result for result in outcome.results if result.metric == "auroc"]
    if arguments.results:
        write_results(arguments.results, lines)
    print(factorial_table(lines, tasks=arguments.tasks).render("terminal"))
    for name, spent in seconds.items():
        print(f"{spent:8.1f} CPU-seconds: {name}")


if __name__ == "__main__":
    main()
