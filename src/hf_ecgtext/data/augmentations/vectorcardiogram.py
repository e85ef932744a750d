"""3KG's augmentation: the heart's electrical vector turned and stretched, as if it lay otherwise in the chest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hf_ecgtext.data.augmentations.base import Augmentation, check_range, uniform
from hf_ecgtext.leads import LIMB_LEAD_WEIGHTS, STANDARD_LEADS, canonical_lead_name

VCG_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
INVERSE_DOWER = (
    (0.156, -0.009, -0.172, -0.073, 0.122, 0.231, 0.239, 0.193),
    (-0.227, 0.886, 0.057, -0.019, -0.106, -0.022, 0.040, 0.048),
    (0.021, 0.102, -0.228, -0.310, -0.245, -0.063, 0.054, 0.108),
)
"""X, Y and Z of the vectorcardiogram from the leads of `VCG_LEADS` (Edenbrandt and Pahlm 1988)."""


class VectorcardiogramPerturbation(Augmentation):
    """Turn and scale the vectorcardiogram of each record, and project it back onto the twelve leads.

    Eight leads become a vector in space and are recomputed from it, III, aVR, aVL and aVF then from I and II; what the
    vector does not hold is lost, even where nothing is turned. A record that lacks one of the eight leads keeps its
    signal.

    Args:
        lead_names (`Sequence[str]`): Rows of the signals: the twelve standard leads in any order.
        max_angle_deg (`float`): The angles about z, y and x are uniform in `[-max_angle_deg, max_angle_deg)`.
        max_scale (`float`): Factors of x, y and z, uniform in `[1, max_scale)`.
        probability (`float`): Of each record, to be changed.

    Raises:
        ValueError: If the leads are not the twelve standard ones.

    Source: 3KG (Gopal et al. 2021), matrix and order of rotations as in fairseq-signals.
    """

    projection: Tensor
    restoration: Tensor

    def __init__(
        self,
        lead_names: Sequence[str] = STANDARD_LEADS,
        max_angle_deg: float = 45.0,
        max_scale: float = 1.5,
        probability: float = 1.0,
    ):
        super().__init__(probability)
        self.max_angle_deg = check_range("max_angle_deg", max_angle_deg, 0.0, 180.0)
        self.max_scale = check_range("max_scale", max_scale, 1.0)
        names = [canonical_lead_name(name) for name in lead_names]
        if len(names) != len(STANDARD_LEADS) or set(names) != set(STANDARD_LEADS):
            raise ValueError(
                f"A vectorcardiogram needs the twelve standard leads {', '.join(STANDARD_LEADS)}, each once, not "
                f"{', '.join(lead_names)}."
            )
        rows = {name: row for row, name in enumerate(names)}
        self.vcg_rows = [rows[name] for name in VCG_LEADS]
        dower = np.array(INVERSE_DOWER)
        eight_leads = np.linalg.pinv(dower)
        projection, restoration = np.zeros((3, len(rows))), np.zeros((len(rows), 3))
        projection[:, self.vcg_rows] = dower
        restoration[self.vcg_rows] = eight_leads
        for name, (of_i, of_ii) in LIMB_LEAD_WEIGHTS.items():
            restoration[rows[name]] = of_i * eight_leads[0] + of_ii * eight_leads[1]
        self.register_buffer("projection", torch.tensor(projection, dtype=torch.float32), persistent=False)
        self.register_buffer("restoration", torch.tensor(restoration, dtype=torch.float32), persistent=False)

    def draw(self, ecg_values: Tensor, lead_mask: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """`angles` about z, y and x in radians and `scales` of x, y and z, each `(batch, 3)`."""
        limit = math.radians(self.max_angle_deg)
        shape = (len(ecg_values), 3)
        return {
            "angles": uniform(shape, ecg_values, generator, -limit, limit),
            "scales": uniform(shape, ecg_values, generator, 1.0, self.max_scale),
        }

    def transform(self, ecg_values: Tensor, lead_mask: Tensor, **draws: Tensor) -> Tensor:
        """See [`Augmentation`]."""
        vcg = self.projection @ ecg_values.float()  # (batch, 3, num_samples)
        change = draws["scales"][..., None] * rotation_matrices(draws["angles"])
        complete = lead_mask[:, self.vcg_rows].all(dim=-1)[:, None, None]
        return torch.where(complete, (self.restoration @ change) @ vcg, ecg_values)


def rotation_matrices(angles: Tensor) -> Tensor:
    """Rotations about the fixed axes z, then y, then x.

    Args:
        angles (`torch.Tensor` of shape `(batch, 3)`): About z, y and x, in radians.

    Returns:
        `torch.Tensor` of shape `(batch, 3, 3)`: As `scipy.spatial.transform.Rotation.from_euler("zyx", angles)`.
    """
    cos_z, cos_y, cos_x = angles.cos().unbind(-1)
    sin_z, sin_y, sin_x = angles.sin().unbind(-1)
    # Rx Ry Rz, multiplied out.
    rows = (
        (cos_y * cos_z, -cos_y * sin_z, sin_y),
        (cos_x * sin_z + sin_x * sin_y * cos_z, cos_x * cos_z - sin_x * sin_y * sin_z, -sin_x * cos_y),
        (sin_x * sin_z - cos_x * sin_y * cos_z, sin_x * cos_z + cos_x * sin_y * sin_z, cos_x * cos_y),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
