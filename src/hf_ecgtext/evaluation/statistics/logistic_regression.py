"""Multi-label logistic regression with an L2 penalty, converged: one yes-or-no question per class.

    minimise over w, b:  sum_i log(1 + exp(-y_i (w.x_i + b))) + l2_penalty / 2 |w|^2,    y_i = -1 or 1

Features are standardised by mean and standard deviation of the training records (or only centred, on request), and the
intercept is not penalised, so that `l2_penalty` is `1 / C` of scikit-learn. With a positive penalty every class with a
positive and a negative record has one finite solution, separable or not.

All classes are solved at once by truncated Newton steps: conjugate gradients find the steps, in the basis of the
principal directions, where the diagonal of the Hessian is a good preconditioner; if there are fewer records than
features, in the span of the records, which holds the solution. The path goes from strong to weak penalties, each
starting from the one before.

Source: Lin, Weng and Keerthi 2008 (truncated Newton for logistic regression); Hager and Zhang 2005 (line search).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_ecgtext.errors import EcgTextError
from hf_ecgtext.evaluation.statistics.metrics import auroc, macro

L2_PENALTIES = (1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
"""From almost none to one that leaves the difference of the class means. Beyond either end, ranks hardly change."""

_MAX_FORCING = 0.1
_MIN_FORCING = 1e-3  # steps are found in float32, twice as fast as float64; they need few digits
_MAX_CONJUGATE_STEPS = 300
_MAX_HALVINGS = 40
_LEAST_REFERENCE = 1e-3

Array = NDArray[np.float64]


class NotConvergedError(EcgTextError, RuntimeError):
    """A logistic regression has not reached its tolerance within the iteration limit."""


@dataclass(frozen=True, eq=False)
class LogisticRegressions:
    """Solutions for every penalty and class.

    Args:
        l2_penalties (`tuple[float, ...]`): As asked for.
        mean, scale (`np.ndarray` of shape `(dim,)`): What standardises features.
        weights (`np.ndarray` of shape `(num_penalties, num_classes, dim)`): Of standardised features.
        intercepts (`np.ndarray` of shape `(num_penalties, num_classes)`): Not penalised.
        undefined (`np.ndarray` of shape `(num_classes,)`): bool; classes without a positive or without a negative
            training record, which get the log-odds of their smoothed share for every record.
        num_iterations (`np.ndarray` of shape `(num_penalties,)`): Newton steps until the last class converged.
    """

    l2_penalties: tuple[float, ...]
    mean: Array
    scale: Array
    weights: Array
    intercepts: Array
    undefined: NDArray[np.bool_]
    num_iterations: NDArray[np.int64]

    def scores(self, features: ArrayLike) -> Array:
        """Logits of shape `(num_penalties, num_records, num_classes)`."""
        standardised = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        return np.stack([standardised @ weights.T for weights in self.weights]) + self.intercepts[:, None, :]


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """The logistic regressions of one penalty.

    Args:
        mean, scale (`np.ndarray` of shape `(dim,)`): What standardises features.
        weights (`np.ndarray` of shape `(num_classes, dim)`): Of standardised features.
        intercepts (`np.ndarray` of shape `(num_classes,)`): Not penalised.
        undefined (`np.ndarray` of shape `(num_classes,)`): As in [`LogisticRegressions`].
        l2_penalty (`float`): The penalty chosen.
        grid_end (`str`, *optional*): `"weakest"` or `"strongest"`, if it is an end of the candidates.
        selection_auroc (`float`): Macro AUROC on the records it was chosen by.
    """

    mean: Array
    scale: Array
    weights: Array
    intercepts: Array
    undefined: NDArray[np.bool_]
    l2_penalty: float
    grid_end: str | None
    selection_auroc: float

    def scores(self, features: ArrayLike) -> NDArray[np.float32]:
        """Logits of shape `(num_records, num_classes)`."""
        standardised = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        return (standardised @ self.weights.T + self.intercepts).astype(np.float32)


def fit_probe(
    features: ArrayLike,
    targets: ArrayLike,
    selection_features: ArrayLike,
    selection_targets: ArrayLike,
    *,
    l2_penalties: Sequence[float] = L2_PENALTIES,
    labels: Sequence[str] | None = None,
    standardise: bool = True,
) -> FittedProbe:
    """Converged logistic regressions of the one penalty with the highest macro AUROC on other records.

    Of penalties that are equally good, the strongest is taken.

    Args:
        features (`np.ndarray` of shape `(num_records, dim)`): Of the training records.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        selection_features, selection_targets (`np.ndarray`): Those of the validation split.
        l2_penalties (`Sequence[float]`): Candidates.
        labels (`Sequence[str]` of length `num_classes`, *optional*): Names of the classes, for messages.
        standardise (`bool`): As in `fit_logistic_regressions`.

    Raises:
        ValueError: As `fit_logistic_regressions`; or if no class has both a positive and a negative record to select
            by.
        NotConvergedError: As `fit_logistic_regressions`.
    """
    path = fit_logistic_regressions(features, targets, l2_penalties, labels=labels, standardise=standardise)
    values = np.array([macro(auroc(scores, selection_targets)) for scores in path.scores(selection_features)])
    if np.isnan(values).all():
        raise ValueError(
            "No class has both a positive and a negative record in the split that the penalty is chosen on. Use a "
            "larger validation split."
        )
    return _best_of(path, values)


def fit_probe_within(
    features: ArrayLike,
    targets: ArrayLike,
    folds: NDArray[np.int64],
    *,
    l2_penalties: Sequence[float] = L2_PENALTIES,
    labels: Sequence[str] | None = None,
    standardise: bool = True,
) -> FittedProbe:
    """Converged logistic regressions of all records, of the one penalty with the best cross-validated macro AUROC.

    A class's cross-validated AUROC is the share of pairs of a positive and a negative record that are ranked right,
    over all pairs within the held-out folds: scores of different folds are of different regressions and are not
    compared. A class guides the choice if some fold with a positive and a negative record of it is scored by
    regressions that have learnt from both, so that it needs positive and negative records in at least two folds. If no
    class does, all penalties are equally good and the strongest is taken, whose `selection_auroc` is NaN.

    Args:
        features (`np.ndarray` of shape `(num_records, dim)`): Of the training records.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        folds (`np.ndarray` of shape `(num_records,)`): The fold of each record, such as those of
            [`~hf_ecgtext.data.subsets.stratified_folds`].
        l2_penalties, labels, standardise: As in `fit_probe`.

    Raises:
        ValueError: As `fit_logistic_regressions`.
        NotConvergedError: As `fit_logistic_regressions`.
    """
    x, y = np.asarray(features), np.asarray(targets)
    wins, pairs = np.zeros((len(l2_penalties), y.shape[1])), np.zeros(y.shape[1])
    for fold in np.unique(folds):
        held_out = folds == fold
        if held_out.all():
            continue  # one fold alone leaves nothing to learn from
        path = fit_logistic_regressions(
            x[~held_out], y[~held_out], l2_penalties, labels=labels, standardise=standardise
        )
        positives = y[held_out].sum(axis=0)
        num_pairs = np.where(path.undefined, 0, positives * (held_out.sum() - positives))
        values = np.array([auroc(scores, y[held_out]) for scores in path.scores(x[held_out])])
        wins += np.where(num_pairs > 0, values, 0.0) * num_pairs
        pairs += num_pairs
    path = fit_logistic_regressions(x, y, l2_penalties, labels=labels, standardise=standardise)
    if not pairs.any():
        return _best_of(path, np.full(len(l2_penalties), np.nan))
    return _best_of(path, (wins[:, pairs > 0] / pairs[pairs > 0]).mean(axis=1))


def _best_of(path: LogisticRegressions, values: Array) -> FittedProbe:
    """The regressions with the highest value; of equally good ones, those of the strongest penalty."""
    penalties = path.l2_penalties
    best = max(range(len(values)), key=lambda place: (np.nan_to_num(values[place]), penalties[place]))
    ends = {min(penalties): "weakest", max(penalties): "strongest"} if len(penalties) > 1 else {}
    return FittedProbe(
        mean=path.mean,
        scale=path.scale,
        weights=path.weights[best],
        intercepts=path.intercepts[best],
        undefined=path.undefined,
        l2_penalty=penalties[best],
        grid_end=ends.get(penalties[best]),
        selection_auroc=float(values[best]),
    )


def fit_logistic_regressions(
    features: ArrayLike,
    targets: ArrayLike,
    l2_penalties: Sequence[float] = L2_PENALTIES,
    *,
    labels: Sequence[str] | None = None,
    standardise: bool = True,
    tolerance: float = 1e-8,
    max_iterations: int = 200,
) -> LogisticRegressions:
    """Solve all classes for all penalties, in float64.

    Args:
        features (`np.ndarray` of shape `(num_records, dim)`): Any scale; a feature that is constant here has no effect.
        targets (`np.ndarray` of shape `(num_records, num_classes)`): 0 or 1.
        l2_penalties (`Sequence[float]`): Positive; of the L2 penalty on the weights of standardised features.
        labels (`Sequence[str]` of length `num_classes`, *optional*): Names of the classes, for messages.
        standardise (`bool`): Divide features by their standard deviation. If not, they are only centred, which the
            unpenalised intercept makes good.
        tolerance (`float`): A class has converged when the norm of its gradient is so many times that of the best
            constant answer.
        max_iterations (`int`): Newton steps per penalty.

    Raises:
        ValueError: If shapes disagree, a feature is not finite, a target is not 0 or 1, or a penalty not positive.
        NotConvergedError: If a class has not converged; it names the first one.
    """
    x, y = _checked(features, targets)
    if not l2_penalties or not all(np.isfinite(l2_penalty) and l2_penalty > 0 for l2_penalty in l2_penalties):
        raise ValueError(f"l2_penalties are {tuple(l2_penalties)}; they must be positive numbers.")
    mean = x.mean(axis=0)
    # Rounding gives a constant feature a tiny standard deviation; it is recognised by its range.
    scale = np.where(x.max(axis=0) > x.min(axis=0), x.std(axis=0), 1.0) if standardise else np.ones(x.shape[1])
    x = (x - mean) / scale
    basis = _principal_basis(x)
    rotated = x @ basis
    num_positives = y.sum(axis=0)
    defined = np.flatnonzero((num_positives > 0) & (num_positives < len(y)))

    weights = np.zeros((len(l2_penalties), y.shape[1], x.shape[1]))
    # A class that is never, or always, present gets one answer for all: its share, smoothed, since logits are finite.
    constant = np.log((num_positives + 0.5) / (len(y) - num_positives + 0.5))
    intercepts = np.tile(constant, (len(l2_penalties), 1))
    iterations = np.zeros(len(l2_penalties), dtype=np.int64)
    if defined.size:
        problem = _Problem(rotated, y[:, defined].T)
        solution = problem.constant_answers()
        # The floor is for features that say nothing, whose gradients are rounding errors.
        references = np.maximum(np.linalg.norm(problem.gradients(solution), axis=1), _LEAST_REFERENCE * len(y) ** 0.5)
        for place in sorted(range(len(l2_penalties)), key=lambda place: -l2_penalties[place]):
            solution, iterations[place], is_open = problem.solve(
                solution, l2_penalties[place], references, tolerance, max_iterations
            )
            if is_open.any():
                first = int(defined[np.flatnonzero(is_open)[0]])
                raise NotConvergedError(
                    f"The logistic regression of class {labels[first] if labels else first} with L2 penalty "
                    f"{l2_penalties[place]:g} has not converged after {max_iterations} Newton steps. Use a stronger "
                    "penalty, or raise max_iterations or tolerance."
                )
            weights[place, defined] = solution[:, :-1] @ basis.T
            intercepts[place, defined] = solution[:, -1]
    return LogisticRegressions(
        l2_penalties=tuple(float(l2_penalty) for l2_penalty in l2_penalties),
        mean=mean,
        scale=scale,
        weights=weights,
        intercepts=intercepts,
        undefined=~np.isin(np.arange(y.shape[1]), defined),
        num_iterations=iterations,
    )


def _checked(features: ArrayLike, targets: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(features, dtype=np.float64), np.asarray(targets)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not len(x):
        raise ValueError(
            f"features have shape {x.shape} and targets {y.shape}; expected (num_records, dim) and (num_records, "
            "num_classes) of the same records, at least one."
        )
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(f"Feature {column} of row {row} is {x[row, column]}; features must be finite.")
    if not np.isin(y, (0, 1)).all():
        row, column = np.argwhere(~np.isin(y, (0, 1)))[0]
        raise ValueError(f"Target of row {row}, class {column} is {y[row, column]}; targets are 0 or 1.")
    return x, y.astype(np.float64)


def _principal_basis(x: Array) -> Array:
    """Orthonormal columns that span the rows of `x`, of shape `(dim, min(num_records, dim))`.

    The penalty does not see a rotation, and a solution has no part outside the span of the records.
    """
    span = np.linalg.qr(x.T)[0] if len(x) < x.shape[1] else np.eye(x.shape[1])
    inside = x @ span
    return span @ np.linalg.eigh(inside.T @ inside)[1]


def _sigmoid(logits: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


class _Problem:
    """Classes that share their records.

    Args:
        x (`np.ndarray` of shape `(num_records, rank)`): Principal components, each of mean 0.
        y (`np.ndarray` of shape `(num_classes, num_records)`): 0 or 1.

    Solutions have shape `(num_classes, rank + 1)`; the intercept is last.
    """

    def __init__(self, x: Array, y: Array):
        self.x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        self.y = y
        self.x32 = self.x.astype(np.float32)
        self.squared32 = np.square(self.x32)

    def constant_answers(self) -> Array:
        """The solutions for an infinite penalty: the frequencies of the classes."""
        solution = np.zeros((len(self.y), self.x.shape[1]))
        share = self.y.mean(axis=1)
        solution[:, -1] = np.log(share / (1 - share))
        return solution

    def gradients(self, solution: Array) -> Array:
        """Of the objective without penalty, of shape `(num_classes, rank + 1)`."""
        return (_sigmoid(solution @ self.x.T) - self.y) @ self.x

    def solve(
        self, start: Array, l2_penalty: float, references: Array, tolerance: float, max_iterations: int
    ) -> tuple[Array, int, NDArray[np.bool_]]:
        """Newton steps of the classes whose gradients have more than `tolerance` times their reference norms.

        Returns:
            `tuple`: Solutions, number of steps, and which classes are still open.
        """
        penalty = np.full(self.x.shape[1], l2_penalty)
        penalty[-1] = 0.0
        solution = start.copy()
        margins = solution @ self.x.T  # (num_classes, num_records)
        is_open = np.ones(len(start), dtype=bool)
        errors = np.zeros(len(start))
        for iteration in range(max_iterations + 1):
            rows = np.flatnonzero(is_open)
            gradients = (_sigmoid(margins[rows]) - self.y[rows]) @ self.x + penalty * solution[rows]
            errors[rows] = np.linalg.norm(gradients, axis=1) / references[rows]
            still = errors[rows] > tolerance
            is_open[rows] = still
            if not still.any() or iteration == max_iterations:
                break
            rows, gradients = rows[still], gradients[still]
            # The closer, the more exact the step: cheap steps first, superlinear convergence at the end.
            forcing = np.clip(np.sqrt(errors[rows]), _MIN_FORCING, _MAX_FORCING)
            steps = self._newton_steps(margins[rows], gradients, penalty, forcing)
            step_margins = steps @ self.x.T
            lengths = _step_lengths(margins[rows], step_margins, self.y[rows], solution[rows], steps, penalty)
            solution[rows] += lengths[:, None] * steps
            margins[rows] += lengths[:, None] * step_margins
        return solution, iteration, is_open

    def _newton_steps(self, margins: Array, gradients: Array, penalty: Array, forcing: Array) -> Array:
        """Steps by preconditioned conjugate gradients, until the residual is `forcing` times the gradient."""
        # A Newton step solves H step = -gradient with H = X' diag(p (1 - p)) X + penalty. H is never formed: conjugate
        # gradients need only its product with a direction, which is two matrix products for all classes at once.
        probability = _sigmoid(margins)
        curvature = (probability * (1 - probability)).astype(np.float32)
        penalty32 = penalty.astype(np.float32)
        # Scaled to norm 1, so that float32 neither over- nor underflows.
        norms = np.linalg.norm(gradients, axis=1, keepdims=True)
        residual = (-gradients / norms).astype(np.float32)
        preconditioner = curvature @ self.squared32 + penalty32
        # Without curvature at any record, the diagonal of the intercept would be 0.
        preconditioner = np.maximum(preconditioner, np.finfo(np.float32).tiny * 1e6)
        steps = np.zeros_like(residual)
        direction = residual / preconditioner
        product = (residual * direction).sum(axis=1)
        rows = np.arange(len(residual))
        for _ in range(_MAX_CONJUGATE_STEPS):
            # `bent` is H times the direction, `bend` the curvature along it; classes that are exact enough drop out.
            bent = (curvature * (direction @ self.x32.T)) @ self.x32 + penalty32 * direction
            bend = (direction * bent).sum(axis=1)
            usable = bend > 0
            length = np.divide(product, bend, out=np.zeros_like(product), where=usable)[:, None]
            steps[rows] += length * direction
            residual = residual - length * bent
            going = usable & (np.linalg.norm(residual, axis=1) > forcing[rows])
            if not going.any():
                break
            if not going.all():
                rows, residual, direction = rows[going], residual[going], direction[going]
                curvature, preconditioner, product = curvature[going], preconditioner[going], product[going]
            scaled = residual / preconditioner
            next_product = (residual * scaled).sum(axis=1)
            direction = scaled + (next_product / product)[:, None] * direction
            product = next_product
        return norms * steps


def _step_lengths(
    margins: Array, step_margins: Array, y: Array, solution: Array, steps: Array, penalty: Array
) -> Array:
    """The longest of 1, 1/2, 1/4, ... of each class that makes the objective smaller.

    Close to the minimum, the change of the objective is below its rounding error; there the slope decides, which must
    have become less steep.
    """

    def along(length: Array) -> tuple[Array, Array]:
        at, moved = margins + length[:, None] * step_margins, solution + length[:, None] * steps
        value = (np.maximum(at, 0) + np.log1p(np.exp(-np.abs(at))) - y * at).sum(axis=1)
        slope = ((_sigmoid(at) - y) * step_margins).sum(axis=1) + (penalty * moved * steps).sum(axis=1)
        return value + 0.5 * (penalty * moved**2).sum(axis=1), slope

    lengths = np.ones(len(margins))
    start, start_slope = along(np.zeros(len(margins)))
    for _ in range(_MAX_HALVINGS):
        value, slope = along(lengths)
        is_lower = value <= start + 1e-4 * lengths * start_slope
        is_flatter = (value <= start + 1e-10 * np.abs(start)) & (slope <= -0.8 * start_slope)
        accepted = is_lower | is_flatter
        if accepted.all():
            break
        lengths = np.where(accepted, lengths, lengths / 2)
    return lengths
