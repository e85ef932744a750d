"""What the lead checks find of faults that are put into real recordings: the table of docs/data/lead-checks.md.

Every recording of PTB-XL's `records500` gets every fault once, and goes through `check_leads` with the policy `"fix"`.
A fault is noticed if anything is said, named if the message says just this fault, and repaired if all samples equal
those before the fault. A wrong repair changes samples to something else. The first table counts false alarms in
recordings as they are, also those of PTB-XL at 100 Hz and, where they lie beside it, of CSN and of PhysioNet 2021, and
the suspicions with electrodes exchanged.

    python benchmarks/lead_checks.py --data-dir ../shared/data/ptb-xl
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.data.wfdb.reading import read_record
from hf_ecgtext.leads import MIMIC_LEADS, STANDARD_LEADS, canonical_lead_name
from hf_ecgtext.processing.lead_checks.check import check_leads
from hf_ecgtext.processing.lead_checks.electrode_reversal import SUSPICION

LIMB, CHEST = STANDARD_LEADS[:6], STANDARD_LEADS[6:]

Signals = NDArray[np.float32]
Fault = Callable[[Signals], Signals]


def held(*leads: str) -> Fault:
    """Rows that hold these leads, `-aVR` for one upside down, under the standard names."""
    rows = [STANDARD_LEADS.index(lead.removeprefix("-")) for lead in leads]
    signs = np.array([-1 if lead.startswith("-") else 1 for lead in leads], dtype=np.float32)
    return lambda signals: signals[:, rows] * signs[:, None]


def exchanged(first: str, second: str) -> Fault:
    """Two rows in each other's place."""
    return held(*({first: second, second: first}.get(lead, lead) for lead in STANDARD_LEADS))


def inverted(lead: str) -> Fault:
    """One row upside down."""
    return held(*(f"-{name}" if name == lead else name for name in STANDARD_LEADS))


ROW_ORDERS = {
    "aVF before aVL (MIMIC-IV-ECG)": MIMIC_LEADS,
    "Cabrera: aVL I -aVR II aVF III": ("aVL", "I", "-aVR", "II", "aVF", "III", *CHEST),
    "Cabrera, aVR not inverted": ("aVL", "I", "aVR", "II", "aVF", "III", *CHEST),
    "V1-V6 first": (*CHEST, *LIMB),
    "I II V1-V6 III aVR aVL aVF": ("I", "II", *CHEST, "III", "aVR", "aVL", "aVF"),
    "aVL aVF aVR in place of aVR aVL aVF": ("I", "II", "III", "aVL", "aVF", "aVR", *CHEST),
    "aVR aVL aVF before I II III": ("aVR", "aVL", "aVF", "I", "II", "III", *CHEST),
}
ELECTRODES = {
    "LA/RA": ("-I", "III", "II", "aVL", "aVR", "aVF", *CHEST),
    "LA/LL": ("II", "I", "-III", "aVR", "aVF", "aVL", *CHEST),
    "RA/LL": ("-III", "-II", "-I", "aVF", "aVL", "aVR", *CHEST),
}


SUMMED = ("a limb and a chest lead exchanged", "a chest lead upside down", "two chest leads exchanged")
"""Groups of which only the total is printed."""


def faults() -> Iterator[tuple[str, str, Fault, str]]:
    """Group, name, fault and what the message must say to name it."""
    for first, second in combinations(LIMB, 2):
        says = f"leads {first} and {second} are exchanged"
        yield "two limb leads exchanged", f"{first} / {second}", exchanged(first, second), says
    for lead in LIMB:
        yield "a limb lead upside down", lead, inverted(lead), f"lead {lead} is upside down"
    for lead, chest in product(LIMB, CHEST):
        says = f"leads {lead} and {chest} are exchanged"
        yield "a limb and a chest lead exchanged", f"{lead} / {chest}", exchanged(lead, chest), says
    for name, order in ROW_ORDERS.items():
        claimed = ", ".join(order)
        says = {
            "aVF before aVL (MIMIC-IV-ECG)": "leads aVL and aVF are exchanged",
            "aVL aVF aVR in place of aVR aVL aVF": "hold I, II, III, aVL, aVF, aVR",
            "aVR aVL aVF before I II III": "hold aVR, aVL, aVF, I, II, III",
        }.get(name, f"({claimed})")
        yield "another order of the rows", name, held(*order), says
    for lead in CHEST:
        yield "a chest lead upside down", lead, inverted(lead), f"lead {lead}"
    for first, second in combinations(CHEST, 2):
        yield (
            "two chest leads exchanged",
            f"{first} / {second}",
            exchanged(first, second),
            f"leads {first} and {second}",
        )
    for name, order in ELECTRODES.items():
        yield "electrodes exchanged on the body", name, held(*order), SUSPICION


def two_at_once(rng: np.random.Generator) -> Fault:
    """Two different single faults of limb leads, one after the other."""
    single = [
        fault for group, _, fault, _ in faults() if group in ("two limb leads exchanged", "a limb lead upside down")
    ]
    first, second = rng.choice(len(single), 2, replace=False)
    return lambda signals: single[second](single[first](signals))


def check(signals: Signals, rate_hz: float, policy: str = "fix") -> tuple[Signals, list[str]]:
    """The signals afterwards, and what was said of each recording, of which there are few."""
    after, said = signals.copy(), [""] * len(signals)
    notices: dict[str, list[str]] = defaultdict(list)
    check_leads(after, STANDARD_LEADS, rate_hz, [str(number) for number in range(len(signals))], policy, notices)
    for message, records in notices.items():
        for record in records:
            said[int(record)] += message
    return after, said


def count(signals: Signals, rate_hz: float, fault: Fault, says: str) -> NDArray[np.int64]:
    """Noticed, named, undecided, repaired and wrongly repaired recordings."""
    counts = np.zeros(5, dtype=np.int64)
    for start in range(0, len(signals), 49):
        right = signals[start : start + 49]
        wrong = fault(right)
        after, said = check(wrong, rate_hz)
        changed = (after != wrong).any(axis=(1, 2))
        repaired = (after == right).all(axis=(1, 2)) & changed
        named = np.array([says in message for message in said])
        undecided = np.array(["cannot be told" in message or "explains it" in message for message in said])
        noticed = np.array([bool(message) for message in said])
        counts += [column.sum() for column in (noticed, named, undecided, repaired, changed & ~repaired)]
    return counts


def read(folder: Path) -> list[EcgRecord]:
    """All recordings below a folder."""
    return [read_record(header.with_suffix("")) for header in sorted(folder.rglob("*.hea"))]


def standard(record: EcgRecord) -> Signals:
    """The twelve leads of a recording in standard order."""
    names = [canonical_lead_name(name) for name in record.lead_names]
    return record.signal[[names.index(lead) for lead in STANDARD_LEADS]]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="PTB-XL, with records500")
    parser.add_argument("--every", action="store_true", help="a row for each fault of a chest lead, too")
    arguments = parser.parse_args()

    print("| recordings | number | contradictions | electrodes suspected | with LA/RA | with LA/LL | with RA/LL |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    beside = arguments.data_dir.parent
    folders = [
        *(arguments.data_dir / name for name in ("records500", "records100")),
        beside / "csn",
        beside / "cinc2021",
    ]
    for folder in folders:
        if folder.exists():
            recordings = [(standard(record), record.sampling_rate_hz) for record in read(folder)]
            said = [check(signal[None], rate_hz)[1][0] for signal, rate_hz in recordings]
            said_of = [sum(what in message for message in said) for what in ("contradict", SUSPICION)]
            cells = [str(number) for number in said_of]
            for order in ELECTRODES.values():
                turned = [check(held(*order)(signal[None]), rate_hz)[1][0] for signal, rate_hz in recordings]
                cells.append(f"{sum(SUSPICION in message for message in turned) / len(turned):.0%}")
            print(f"| {folder.name} | {len(said)} | {' | '.join(cells)} |", flush=True)

    signals = np.stack([standard(record) for record in read(folders[0])])
    print(f"\n{len(signals)} recordings with each fault\n")
    print("| fault | noticed | named | cannot tell | repaired | wrong repairs |\n|---|---:|---:|---:|---:|---:|")
    summed = () if arguments.every else SUMMED
    totals: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
    for group, name, fault, says in faults():
        counts = count(signals, 500.0, fault, says)
        totals[group].append(counts)
        if group not in summed:
            print(_line(f"{group}: {name}", [counts], len(signals)), flush=True)
    for group, rows in totals.items():
        print(_line(f"**{group}, all {len(rows)}**", rows, len(signals)))
    rng = np.random.default_rng(0)
    several = [count(signals[:49], 500.0, two_at_once(rng), "") for _ in range(100)]
    print(_line("two faults of limb leads at once, 100 pairs, 49 recordings", several, 49, named=False))


def _line(name: str, counts: list[NDArray[np.int64]], num_records: int, named: bool = True) -> str:
    shares = np.sum(counts, axis=0) / (num_records * len(counts))
    cells = [f"{share:.1%}" for share in shares[:4]]
    if not named:
        cells[1] = ""
    return f"| {name} | {' | '.join(cells)} | {np.sum(counts, axis=0)[4]} |"


if __name__ == "__main__":
    main()
