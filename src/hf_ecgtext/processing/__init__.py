"""From raw recordings and reports to model input; the settings are saved with the checkpoint."""

from hf_ecgtext.data.report_cleaning import (
    REPORT_CLEANERS,
    clean_12sl_report,
    clean_cmelt_report,
    clean_dbeta_report,
    clean_mimic_report,
    clean_ptbxl_report,
)
from hf_ecgtext.limb_lead_order import infer_limb_lead_order
from hf_ecgtext.processing.feature_extraction_ecg import EcgFeatureExtractor
from hf_ecgtext.processing.processing_ecg_text import EcgTextProcessor
from hf_ecgtext.processing.resampling import resample

__all__ = [
    "REPORT_CLEANERS",
    "EcgFeatureExtractor",
    "EcgTextProcessor",
    "clean_12sl_report",
    "clean_cmelt_report",
    "clean_dbeta_report",
    "clean_mimic_report",
    "clean_ptbxl_report",
    "infer_limb_lead_order",
    "resample",
]
