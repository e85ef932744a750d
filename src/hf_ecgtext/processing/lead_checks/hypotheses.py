"""What may be wrong with the leads of a recording, and how well each possibility agrees with the identities.

Einthoven's law (I + III = II) and Goldberger's identities (aVR = -(I + II)/2, aVL = I - II/2, aVF = II - I/2) say that
all limb leads lie in a plane: the `k` limb leads of any sample are `weights @ (I, II)` with `weights` of shape
`(k, 2)`. A hypothesis names, for each lead, the row that really holds it and its sign. Its misfit is what is left of
the limb leads outside the plane once they are put so: a quadratic form of the covariance of the rows.

What the identities cannot see. Exchanging electrodes on the body turns the plane into itself: the six orders of the arm
and leg electrodes, each with both signs, are the twelve symmetries of six limb leads. With LA and RA exchanged, I is
upside down and II/III and aVR/aVL are exchanged, without any contradiction. Hence, of six limb leads:

* all 720 orders differ in their planes, and so do all inversions of a single lead, from one another and from every
  single exchange;
* I upside down is the same as II/III and aVR/aVL both exchanged, and III upside down the same as I/II and aVL/aVF both
  exchanged; the single inversion is the simpler of the two.

With fewer limb leads more is the same. Of I, II and III alone, I/III exchanged contradicts nothing; I/II exchanged is
III upside down; II/III exchanged is I upside down; II upside down is the only single fault that can be named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations, permutations, product

import numpy as np
from numpy.typing import NDArray

from hf_ecgtext.leads import LIMB_LEAD_WEIGHTS, MIMIC_LEADS, STANDARD_LEADS

_CHEST_LEADS = STANDARD_LEADS[6:]
_ROW_ORDERS = {
    "the standard order": STANDARD_LEADS,
    "the order of MIMIC-IV-ECG": MIMIC_LEADS,
    "Cabrera's order": ("aVL", "I", "-aVR", "II", "aVF", "III", *_CHEST_LEADS),
    "Cabrera's order with aVR not inverted": ("aVL", "I", "aVR", "II", "aVF", "III", *_CHEST_LEADS),
    "an order with the chest leads first": (*_CHEST_LEADS, *STANDARD_LEADS[:6]),
    "an order with the chest leads behind I and II": ("I", "II", *_CHEST_LEADS, "III", "aVR", "aVL", "aVF"),
    "an order with the chest leads behind I, II and III": ("I", "II", "III", *_CHEST_LEADS, "aVR", "aVL", "aVF"),
}
"""Orders in which devices and files hold the twelve leads."""


@dataclass(frozen=True)
class Hypothesis:
    """One thing that may be wrong.

    Args:
        description (`str`): As a clause, such as "leads II and III are exchanged".
        rows (`tuple[int, ...]`): For each lead, in the order of the names, the row that really holds it.
        signs (`tuple[int, ...]`): For each lead, 1, or -1 if that row holds it upside down.
        is_provable (`bool`): Whether the identities settle the place of every row that moves, or of all but one.
    """

    description: str
    rows: tuple[int, ...]
    signs: tuple[int, ...]
    is_provable: bool = True


@lru_cache(maxsize=64)
def outside_plane(leads: tuple[str, ...]) -> NDArray[np.float64]:
    """The projection onto what the identities forbid, of shape `(k, k)`, for some of the limb leads."""
    weights = np.array([LIMB_LEAD_WEIGHTS[lead] for lead in leads])  # (k, 2)
    return np.eye(len(leads)) - weights @ np.linalg.pinv(weights)


@lru_cache(maxsize=64)
def hypotheses_for(names: tuple[str, ...]) -> Hypotheses:
    """The hypotheses about recordings with these rows; made once per set of rows."""
    return Hypotheses(names)


class Hypotheses:
    """The hypotheses about recordings with some rows, and the quadratic forms that give their misfits.

    Args:
        names (`tuple[str, ...]`): Standard name claimed for each row that holds a signal, in the order of the file;
            three or more are limb leads.
    """

    def __init__(self, names: tuple[str, ...]):
        self.names = names
        self.limb = [row for row, name in enumerate(names) if name in LIMB_LEAD_WEIGHTS]
        self.limb_leads = tuple(names[row] for row in self.limb)
        self._outside = outside_plane(self.limb_leads)
        self._as_claimed = tuple(range(len(names)))
        self._upright = (1,) * len(names)
        self.claim = self._form(Hypothesis("", self._as_claimed, self._upright))

    def _form(self, hypothesis: Hypothesis) -> NDArray[np.float64]:
        """Of shape `(num_rows, num_rows)`; the sum of its product with the covariance is the squared misfit in mV^2.

        It is the variance per identity, so that noise of one size in all leads has just that size as misfit.
        """
        rows = [hypothesis.rows[lead] for lead in self.limb]
        signs = np.array([hypothesis.signs[lead] for lead in self.limb])
        form = np.zeros((len(self.names), len(self.names)))
        form[np.ix_(rows, rows)] = signs[:, None] * self._outside * signs / (len(self.limb) - 2)
        return form

    @cached_property
    def simple(self) -> list[Hypothesis]:
        """Single exchanges of a limb lead, single inversions of one, and usual orders of the rows."""
        found: dict[tuple[tuple[int, ...], tuple[int, ...]], Hypothesis] = {}
        for hypothesis in [*self._exchanges(), *self._inversions(), *self._row_orders()]:
            if (hypothesis.rows, hypothesis.signs) != (self._as_claimed, self._upright):
                found.setdefault((hypothesis.rows, hypothesis.signs), hypothesis)
        return list(found.values())

    def _exchanges(self) -> Iterator[Hypothesis]:
        chest = [row for row, name in enumerate(self.names) if name in _CHEST_LEADS]
        for first, second in [*combinations(self.limb, 2), *product(self.limb, chest)]:
            rows = list(self._as_claimed)
            rows[first], rows[second] = second, first
            what = f"leads {self.names[first]} and {self.names[second]} are exchanged"
            yield Hypothesis(what, tuple(rows), self._upright)

    def _inversions(self) -> Iterator[Hypothesis]:
        for row in self.limb:
            signs = list(self._upright)
            signs[row] = -1
            yield Hypothesis(f"lead {self.names[row]} is upside down", self._as_claimed, tuple(signs))

    def _row_orders(self) -> Iterator[Hypothesis]:
        if set(self.names) != set(STANDARD_LEADS):
            return
        for what, held in _ROW_ORDERS.items():
            upright = [lead.removeprefix("-") for lead in held]
            rows = tuple(upright.index(name) for name in self.names)
            signs = tuple(-1 if held[row].startswith("-") else 1 for row in rows)
            moved_chest = sum(row != lead for lead, row in enumerate(rows) if self.names[lead] in _CHEST_LEADS)
            yield Hypothesis(f"the rows are in {what} ({', '.join(held)})", rows, signs, is_provable=moved_chest <= 1)

    @cached_property
    def orders(self) -> list[Hypothesis]:
        """All orders of the limb leads among their rows, but the claimed one."""
        found = []
        for order in list(permutations(self.limb))[1:]:
            rows = list(self._as_claimed)
            for lead, row in zip(self.limb, order, strict=True):
                rows[lead] = row
            held = ", ".join(self.names[rows.index(row)] for row in self.limb)
            what = f"the rows named {', '.join(self.limb_leads)} hold {held}"
            found.append(Hypothesis(what, tuple(rows), self._upright))
        return found

    @cached_property
    def simple_forms(self) -> NDArray[np.float64]:
        """Forms of `simple`, of shape `(num_hypotheses, num_rows, num_rows)`."""
        return np.stack([self._form(hypothesis) for hypothesis in self.simple])

    @cached_property
    def order_forms(self) -> NDArray[np.float64]:
        """Forms of `orders`, of shape `(num_orders, num_rows, num_rows)`."""
        return np.stack([self._form(hypothesis) for hypothesis in self.orders])

    @cached_property
    def without_one_forms(self) -> NDArray[np.float64]:
        """For each limb lead, the form of the others' identities, of shape `(k, num_rows, num_rows)`; needs four."""
        forms = np.zeros((len(self.limb), len(self.names), len(self.names)))
        for position, row in enumerate(self.limb):
            others = [other for other in self.limb if other != row]
            outside = outside_plane(tuple(self.names[other] for other in others))
            forms[position][np.ix_(others, others)] = outside / (len(others) - 2)
        return forms

    @cached_property
    def all_limb_forms(self) -> NDArray[np.float64]:
        """Forms of every order of the limb leads with every sign, of shape `(num_forms, k, k)`: 3,840 of six leads.

        They serve to see that something else fits better; each stands for all that the identities cannot tell apart.
        """
        orders = np.array(list(permutations(range(len(self.limb)))))
        signs = np.array(list(product((1,), *[(1, -1)] * (len(self.limb) - 1))))  # all upside down is nothing else
        turned = self._outside[orders[:, :, None], orders[:, None, :]]  # (k!, k, k)
        forms = (signs[:, None, :, None] * signs[:, None, None, :] * turned).reshape(-1, len(self.limb) ** 2)
        _, first = np.unique((forms + 1).round(9), axis=0, return_index=True)
        return forms[first].reshape(-1, len(self.limb), len(self.limb)) / (len(self.limb) - 2)

    def is_simplest(self, order: Hypothesis) -> bool:
        """Whether an order needs fewer moves and inversions than whatever the identities cannot tell from it.

        aVR, aVL and aVF in a circle look like I, II and III in a circle with two of them upside down: three things
        against five.
        """
        rows = np.array([order.rows[lead] for lead in self.limb])
        # With leads `x` in the plane, `signs * x[turned]` is in it too: another reading of the same rows.
        needed = [
            int((rows[turned] != self.limb).sum() + (signs < 0).sum()) for turned, signs in symmetries(self.limb_leads)
        ]
        return needed.count(min(needed)) == 1 and min(needed) == int((rows != self.limb).sum())


@lru_cache(maxsize=64)
def symmetries(leads: tuple[str, ...]) -> list[tuple[NDArray[np.intp], NDArray[np.int64]]]:
    """All orders and signs of some limb leads that keep every identity: `signs * x[order]` obeys them if `x` does.

    Of all six these are the orders of the electrodes RA, LA and LL, upright and upside down: twelve.
    """
    weights = np.array([LIMB_LEAD_WEIGHTS[lead] for lead in leads])
    orders = np.array(list(permutations(range(len(leads)))), dtype=np.intp)  # (k!, k)
    signs = np.array(list(product((1, -1), repeat=len(leads))))  # (2^k, k)
    turned = signs[:, None, :, None] * weights[orders]  # (2^k, k!, k, 2)
    forbidden = np.abs(outside_plane(leads) @ turned).max(axis=(-2, -1))
    return [(orders[order], signs[sign]) for sign, order in np.argwhere(forbidden < 1e-9)]
