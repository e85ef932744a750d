import json

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoProcessor, AutoTokenizer, BertTokenizer, PreTrainedConfig

from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import MIMIC_LEADS, STANDARD_LEADS
from hf_ecgtext.processing import EcgFeatureExtractor, EcgTextProcessor

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sinus", "rhythm", "normal", "ecg", "atrial", "."]


class DummyEcgTextConfig(PreTrainedConfig):
    model_type = "dummy_ecg_text"


class DummyEcgTextProcessor(EcgTextProcessor):
    """A method's processor: its own name and nothing else."""


AutoFeatureExtractor.register(DummyEcgTextConfig, EcgFeatureExtractor)
AutoProcessor.register(DummyEcgTextConfig, DummyEcgTextProcessor)


@pytest.fixture
def tokenizer():
    return BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}, model_max_length=16)


@pytest.fixture
def extractor():
    return EcgFeatureExtractor(lead_names=MIMIC_LEADS, duration_s=2.0, scaling="minmax_record")


@pytest.fixture
def processor(extractor, tokenizer):
    return EcgTextProcessor(extractor, tokenizer)


def signal(batch=1):
    return np.random.default_rng(0).standard_normal((batch, 12, 1000), dtype=np.float32)


def test_a_recording_and_its_report_become_model_inputs(processor):
    inputs = processor(ecg=signal(2), text=["Sinus rhythm", "normal"], sampling_rate_hz=500)
    assert list(inputs) == processor.model_input_names == ["ecg_values", "lead_mask", "input_ids", "attention_mask"]
    assert inputs["ecg_values"].shape == (2, 12, 1000)
    assert inputs["lead_mask"].dtype == torch.bool
    assert inputs["input_ids"].tolist() == [[2, 5, 6, 3], [2, 7, 3, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_each_modality_works_alone(processor):
    assert set(processor(ecg=signal(), sampling_rate_hz=500)) == {"ecg_values", "lead_mask"}
    assert set(processor(text="sinus rhythm")) == {"input_ids", "attention_mask"}
    with pytest.raises(ValueError, match="ecg, text or both"):
        processor()


def test_prompts_need_not_be_as_many_as_recordings(processor):
    inputs = processor(ecg=signal(3), text=["normal", "atrial"], sampling_rate_hz=500)
    assert (len(inputs["ecg_values"]), len(inputs["input_ids"])) == (3, 2)


def test_padding_is_dynamic_unless_asked_otherwise(processor):
    assert processor(text="normal")["input_ids"].shape == (1, 3)
    assert processor(text="normal", padding="max_length")["input_ids"].shape == (1, 16)


def test_numpy_arrays_are_returned_when_asked_for(processor):
    inputs = processor(ecg=signal(), text="normal", sampling_rate_hz=500, return_tensors="np")
    assert all(isinstance(values, np.ndarray) for values in inputs.values())


def test_crops_repeat_with_their_seed(processor):
    long = np.random.default_rng(0).standard_normal((12, 3000), dtype=np.float32)
    first, again = (
        processor(ecg=long, sampling_rate_hz=500, crop="random", generator=3)["ecg_values"] for _ in range(2)
    )
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_reports_are_cleaned_by_the_named_function(extractor, tokenizer):
    processor = EcgTextProcessor(extractor, tokenizer, report_cleaning="mimic")
    assert processor.decode(processor(text="*** Normal EKG ***")["input_ids"][0]) == "[CLS] normal ecg. [SEP]"


def test_tokens_are_decoded_in_batches(processor):
    ids = processor(text=["sinus rhythm", "normal ecg"])["input_ids"]
    assert processor.batch_decode(ids, skip_special_tokens=True) == ["sinus rhythm", "normal ecg"]


def test_an_empty_report_is_refused_by_record_or_kept(extractor, tokenizer):
    processor = EcgTextProcessor(extractor, tokenizer, report_cleaning="mimic")
    record = EcgRecord(signal()[0], 500.0, STANDARD_LEADS, "r7")
    with pytest.raises(RecordError, match="Record 'r7': the report is empty"):
        processor(ecg=[record], text=["***"])
    with pytest.raises(RecordError, match="Record 'text 1'"):
        processor(text=["normal", " "])
    keeping = EcgTextProcessor(extractor, tokenizer, empty_report="keep")
    assert keeping(text="")["input_ids"].tolist() == [[2, 3]]


def test_a_long_text_is_cut_counted_and_logged_once(processor, caplog):
    text = "sinus " * 20
    inputs = processor(text=[text, "normal", text])
    assert inputs["input_ids"].shape == (3, 16)
    assert processor.num_truncated_texts == 2
    assert len([line for line in caplog.records if "tokens" in line.message]) == 1


def test_a_text_that_just_fits_is_not_counted(processor):
    processor(text="sinus " * 14)
    assert processor.num_truncated_texts == 0


def test_a_long_text_can_be_refused(extractor, tokenizer):
    processor = EcgTextProcessor(extractor, tokenizer, max_length=4, long_text="raise")
    with pytest.raises(RecordError, match="5 tokens but the text tower reads 4"):
        processor(text="sinus rhythm normal")


def test_a_text_that_is_no_string_is_refused(processor):
    with pytest.raises(TypeError, match="item 1 is float"):
        processor(text=["normal", float("nan")])
    with pytest.raises(ValueError, match="text is empty"):
        processor(text=[])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_length", 0),
        ("max_length", 17),
        ("max_length", 10**9),
        ("max_length", "8"),
        ("report_cleaning", "german"),
        ("empty_report", "drop"),
        ("long_text", "cut"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(extractor, tokenizer, setting, value):
    with pytest.raises((TypeError, ValueError), match=setting):
        EcgTextProcessor(extractor, tokenizer, **{setting: value})


def test_a_tokenizer_without_a_limit_needs_max_length(extractor):
    unlimited = BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    with pytest.raises(ValueError, match="no model_max_length"):
        EcgTextProcessor(extractor, unlimited)
    assert EcgTextProcessor(extractor, unlimited, max_length=8).max_length == 8


@pytest.mark.parametrize("cls", [EcgTextProcessor, DummyEcgTextProcessor])
def test_a_processor_and_a_subclass_without_body_survive_saving_and_loading(cls, extractor, tokenizer, tmp_path):
    saved = cls(extractor, tokenizer, max_length=8, report_cleaning="ptbxl", empty_report="keep", long_text="raise")
    saved.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    assert type(loaded) is cls
    assert loaded.to_dict() == saved.to_dict()
    assert loaded.feature_extractor.to_dict() == extractor.to_dict()
    text = ["Sinus rhythm 4.46   unbestÄtigter bericht"]
    assert loaded(text=text)["input_ids"].tolist() == saved(text=text)["input_ids"].tolist() == [[2, 5, 6, 3]]


def test_the_auto_classes_find_a_registered_processor(extractor, tokenizer, tmp_path):
    saved = DummyEcgTextProcessor(extractor, tokenizer, max_length=8)
    saved.save_pretrained(tmp_path)
    DummyEcgTextConfig().save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is DummyEcgTextProcessor
    assert loaded.to_dict() == saved.to_dict()
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is EcgFeatureExtractor
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_settings_of_both_parts_can_be_overridden_while_loading(processor, tmp_path):
    processor.save_pretrained(tmp_path / "saved")
    loaded = EcgTextProcessor.from_pretrained(tmp_path / "saved", max_length=5, scaling="none")
    assert (loaded.max_length, loaded.feature_extractor.scaling) == (5, "none")
    assert loaded.feature_extractor.lead_names == MIMIC_LEADS
    loaded.save_pretrained(tmp_path / "again")
    tokenizer_settings = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert not {"max_length", "scaling"} & set(tokenizer_settings)


def test_a_misspelt_setting_is_refused_while_loading_and_in_the_file(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match="did you mean 'max_length'"):
        EcgTextProcessor.from_pretrained(tmp_path, max_lenght=5)
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "report_cleaner": "mimic"}))
    with pytest.raises(TypeError, match="no setting 'report_cleaner'"):
        EcgTextProcessor.from_pretrained(tmp_path)
