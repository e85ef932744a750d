"""SaMi-Trop (Cardoso et al. 2016; Ribeiro et al. 2021): 1,631 12-lead ECGs of people with chronic Chagas disease.

The files are those of CODE-15 %, without ids and diagnoses: tracing `i` of `exams.hdf5` is row `i` of `exams.csv`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hf_ecgtext.data.sources.code15 import UNIT_IS_DISPUTED, CodeExams
from hf_ecgtext.data.sources.code_tracings import TRACINGS_DATASET
from hf_ecgtext.data.tasks import LabelTask


class SamiTrop(CodeExams):
    """SaMi-Trop. Needs the package h5py: `pip install "hf-ecgtext[code-test]"`.

    See [`~hf_ecgtext.data.sources.code15.CodeExams`] for the options.
    """

    name = "sami_trop"
    title = "SaMi-Trop"
    version = "1.0.0"
    license_id = "cc-by-4.0"
    homepage = "https://zenodo.org/records/4905618"
    access = "Open to everybody, at Zenodo."
    citation = """@dataset{ribeiro2021samitrop,
  author = {Ribeiro, Antonio L. P. and Ribeiro, Ant{\\^o}nio H. and Paix{\\~a}o, Gabriela M. M. and others},
  title = {{Sami-Trop}: 12-lead {ECG} traces with age and mortality annotations},
  publisher = {Zenodo}, year = {2021}, doi = {10.5281/zenodo.4905618}
}"""
    description = (
        "1,631 exams, each taken for a patient of its own: `record_id` and `patient_id` are the `exam_id`. No "
        "diagnoses; `normal_ecg`, `death`, `followup_years` (the published `timey`) and `nn_predicted_age` as "
        "published. Tracings are padded with zeros to 4,096 samples at 400 Hz and stored so; samples from "
        "`content_start` to `content_end` (not included) are the "
        "recording. The splits are by a hash of the exam (80:10:10); none are published.\n\n" + UNIT_IS_DISPUTED
    )
    tracings_file = re.compile(r"exams\.hdf5")
    where = (
        "Download exams.csv and exams.zip from https://zenodo.org/records/4905618 and unpack the archive beside the "
        "table."
    )

    def tasks(self) -> tuple[LabelTask, ...]:
        """None: there are no diagnoses."""
        return ()

    def exams_of_file(self, opened: Any, table: pa.Table, path: str) -> NDArray[np.int64]:
        """See [`~hf_ecgtext.data.sources.code15.CodeExams`]: the rows of the table, in order."""
        num_tracings = len(opened[TRACINGS_DATASET])
        if num_tracings != len(table):
            raise ValueError(
                f"'{path}' has {num_tracings:,} tracings and exams.csv {len(table):,} rows, although they are aligned "
                f"by nothing but the row. {self.where}"
            )
        return table.column("exam_id").to_numpy()


SOURCE = SamiTrop
