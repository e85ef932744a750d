from __future__ import annotations

import datetime

import pytest

from hf_ecgtext.data.wfdb.header import parse_wfdb_header, read_wfdb_header
from hf_ecgtext.errors import RecordError

IMPOSSIBLE_RATES = ("0", "-500", "1e-300", "0.001", "5", "19.99", "20001", "1e9", "1e12", "1e308", "1e999")
LEAD = "x.dat 16 1000.0(0)/mV 16 0 -115 13047 0 I"


def parse(record_line: str = "x 1 500 50", *signal_lines: str):
    return parse_wfdb_header("\n".join([record_line, *(signal_lines or (LEAD,))]), "x")


def test_a_signal_line_is_parsed_field_by_field() -> None:
    lead = parse("x 1 500 50", "x.mat 212x1:0+24 200.5(-3)/uV 12 1024 -115 -13047 0 MLII ext. ").leads[0]
    assert lead == ("x.mat", 212, 1, 0, 24, 200_500.0, -3, -115, -13047, "MLII ext.")


@pytest.mark.parametrize(
    "line",
    [
        LEAD,
        "x.mat 212x2:3+24 -1e-3(-7)/uV 12 1024 +115 -13047 0 MLII ext.",
        "x.dat 16 0 16 5 -1 2 0 V1",
        "x.dat 16 200/mmHg 16 0 1 2 0 I",
        "x.dat 16 1e300 16 0 1 2 0 I",
        "x.dat 16 200(3000000000) 16 0 1 2 0 I",
        "x.dat 16 200 16.5 0 1 2 0 I",
        "x.dat 16 200 16 0 1_0 2 0 I",
        "x.dat 16 200 16 0 1 0x2 0 I",
        "x.dat 16 200 16 0 1 2 z I",
        "x.dat 16 200 16 0 1 2 0",
        "x.dat +24 200 16 0 1 2 0 I",
    ],
)
def test_the_way_of_one_space_between_fields_reads_and_refuses_as_the_general_one(line: str) -> None:
    def outcome(signal_line: str):
        try:
            return parse("x 1 500 50", signal_line).leads
        except RecordError as error:
            return " ".join(str(error).split())

    assert outcome(line) == outcome(line.replace(" ", "  ", 1))


@pytest.mark.parametrize(
    ("line", "rate", "num_samples"),
    [
        ("x 1", 250, None),
        ("x 1 360", 360, None),
        ("x 1 128.5 50", 128.5, 50),
        ("x 1 500/360 50", 500, 50),
        ("x 1 500/360(0) 50", 500, 50),
        ("x 1 500/360.5(-2.5) 50", 500, 50),
        ("x 1 1e3 0", 1000, None),
        ("x.mat 1 500 50", 500, 50),
        ("x\t1\t500\t50", 500, 50),
    ],
)
def test_the_record_line_gives_rate_and_length(line: str, rate: float, num_samples: int | None) -> None:
    header = parse(line)
    assert header.sampling_rate_hz == rate
    assert header.num_samples == num_samples


@pytest.mark.parametrize(
    ("moment", "date", "time"),
    [
        ("11:58:43 25/04/1987", datetime.date(1987, 4, 25), datetime.time(11, 58, 43)),
        ("23-Mar-2021 20:21:11", datetime.date(2021, 3, 23), datetime.time(20, 21, 11)),
        ("12-May-2020 12:33:59", datetime.date(2020, 5, 12), datetime.time(12, 33, 59)),
        ("12:33:59 12-MAY-2020", datetime.date(2020, 5, 12), datetime.time(12, 33, 59)),
        ("2020-05-12 12:33:59.5", datetime.date(2020, 5, 12), datetime.time(12, 33, 59, 500_000)),
        ("20:21", None, datetime.time(0, 20, 21)),
        ("7", None, datetime.time(0, 0, 7)),
        ("1/2/2003", datetime.date(2003, 2, 1), None),
    ],
)
def test_time_and_date_are_read_in_either_order(
    moment: str, date: datetime.date | None, time: datetime.time | None
) -> None:
    header = parse(f"x 1 500 50 {moment}")
    assert header.base_date == date
    assert header.base_time == time


@pytest.mark.parametrize(
    "line",
    [
        "x 1 500 50 soon",
        "x 1 500 50 25:00:00",
        "x 1 500 50 31/02/2020",
        "x 1 500 50 12-Mai-2020",
        "x 1 500 50 12:00 13:00",
        "x 1 500 50 1/2/2003 3/4/2005",
        "x 1 500 50 12:00:00 1/2/2003 more",
    ],
)
def test_a_misprinted_time_or_date_costs_neither_the_signal_nor_the_other_of_the_two(line: str) -> None:
    header = parse(line)
    assert header.unread
    assert all(field.split("'")[1] in line for field in header.unread)
    assert (header.num_samples, len(header.leads)) == (50, 1)
    understood = [field for field in line.split()[4:] if not any(f"'{field}'" in text for text in header.unread)]
    assert len(understood) == (header.base_time is not None) + (header.base_date is not None)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("x", "does not give the number of leads"),
        ("x twelve 500 50", "does not give the number of leads"),
        ("x \N{ARABIC-INDIC DIGIT ONE} 500 50", "does not give the number of leads"),
        ("x -1 500 50", "does not give the number of leads"),
        ("x 0 500 50", "announces no leads"),
        *((f"x 1 {rate} 50", "cannot be that of an ECG .20 to 20,000 Hz") for rate in IMPOSSIBLE_RATES),
        ("x 1 nan 50", "'nan' as sampling rate"),
        ("x 1 500Hz 50", "'500Hz' as sampling rate"),
        ("x 1 5_00 50", "'5_00' as sampling rate"),
        ("x 1 500 50.5", "'50.5' as number of samples"),
        ("x 1 500 -50", "'-50' as number of samples"),
        (f"x 1 500 {'9' * 5000}", "as number of samples"),
        ("x/3 1 500 50", "multi-segment"),
        ("x/1 1 500 50", "multi-segment"),
        ("folder/x/3 1 500 50", "multi-segment"),
        ("x 2 500 50", "announces 2 leads but describes 1"),
    ],
)
def test_a_record_line_that_cannot_be_right_is_refused(line: str, match: str) -> None:
    with pytest.raises(RecordError, match=match):
        parse(line)


def test_signal_lines_after_those_announced_are_left_unread() -> None:
    surplus = (LEAD.replace(" I", " II"), "other.dat 8 1/mmHg 8 0 0 0 0 ABP", "no signal line at all")
    header = parse("x 1 500 50", LEAD, *surplus)
    assert header.lead_names == ("I",)
    assert header.unread == tuple(f"the surplus line '{line}'" for line in surplus)


def test_surplus_signal_lines_are_refused_where_no_length_tells_how_many_leads_there_are() -> None:
    for record_line in ("x 1 500", "x 1 500 0"):
        with pytest.raises(RecordError, match="announces 1 leads but describes 2"):
            parse(record_line, LEAD, LEAD.replace(" I", " II"))


@pytest.mark.parametrize("name", ["folder/x", "a/b/x12", "beats_folder/q1.mat", "x/3a"])
def test_a_folder_in_the_record_name_is_no_number_of_segments(name: str) -> None:
    header = parse(f"{name} 1 500 50")
    assert header.record_name == name
    assert header.unread == ()


@pytest.mark.parametrize("initial", [2**31, -(2**31) - 1, 4294967296, -999999999999999])
def test_an_initial_value_beyond_32_bit_is_refused_in_every_format(initial: int) -> None:
    for storage in ("8", "16", "212"):
        with pytest.raises(RecordError, match=f"lead V2 has the initial value {initial}, beyond 32 bit"):
            parse("x 1 500 50", f"x.dat {storage} 200/mV 8 0 {initial} 0 0 V2")


@pytest.mark.parametrize(
    "line",
    [
        "x.dat",
        "x.dat sixteen",
        "x.dat 16 gain 16 0 0 0 0 I",
        "x.dat 16 nan/mV 16 0 0 0 0 I",
        "x.dat 16 1000(x)/mV 16 0 0 0 0 I",
        "x.dat 16 1000/mV 16 0 zero 0 0 I",
        "x.dat 16 1000/mV 16 0 0 1_0 0 I",
        "x.dat 16 1000/mV I",
        "x.dat 16+ 1000/mV 16 0 0 0 0 I",
        f"x.dat 16 {'9' * 400}/mV 16 0 0 0 0 I",
    ],
)
def test_a_signal_line_that_does_not_follow_the_format_is_refused(line: str) -> None:
    with pytest.raises(RecordError, match="does not follow the WFDB format"):
        parse("x 1 500 50", line)


@pytest.mark.parametrize(
    "line", ["x.dat 16", "x.dat 16 1000/mV", "x.dat 16 1000/mV 16 0 0 0 0", "x.dat 16 1/mV 16 0 0 0 0 "]
)
def test_a_lead_without_name_is_refused(line: str) -> None:
    with pytest.raises(RecordError, match="names no lead"):
        parse("x 1 500 50", line)


@pytest.mark.parametrize("unit", ["mmHg", "NU", "MV", "%", "mV/mV"])
def test_an_unknown_unit_is_refused_with_record_lead_unit_and_fix(unit: str) -> None:
    with pytest.raises(RecordError) as caught:
        parse("x 1 500 50", f"x.dat 16 1000/{unit} 16 0 0 0 0 ABP")
    assert caught.value.record == "x"
    assert f"lead ABP is in '{unit}', which cannot be converted to mV" in caught.value.problem
    assert "remove the lead" in caught.value.fix


@pytest.mark.parametrize("gain", ["1e-9/mV", "1e300/mV", "1e12/uV", "-1e-300", "1e999/mV"])
def test_a_gain_that_would_overflow_is_refused(gain: str) -> None:
    with pytest.raises(RecordError, match="gain"):
        parse("x 1 500 50", f"x.dat 16 {gain} 16 0 0 0 0 I")


def test_a_baseline_beyond_32_bit_is_refused() -> None:
    with pytest.raises(RecordError, match="beyond 32 bit"):
        parse("x 1 500 50", "x.dat 16 1000(2147483648)/mV 16 0 0 0 0 I")


@pytest.mark.parametrize(
    ("scale_and_zero", "gain", "baseline"),
    [("1000 16 1024", 1000, 1024), ("1000(7) 16 1024", 1000, 7), ("0 16 5", 200, 5), ("1000(0) 16 5", 1000, 0)],
)
def test_missing_gain_and_baseline_take_the_defaults_of_the_format(
    scale_and_zero: str, gain: float, baseline: int
) -> None:
    lead = parse("x 1 500 50", f"x.dat 16 {scale_and_zero} 0 0 0 I").leads[0]
    assert (lead.gain_per_mv, lead.baseline) == (gain, baseline)


def test_two_leads_of_one_name_are_refused() -> None:
    with pytest.raises(RecordError, match="names V2 more than once"):
        parse("x 3 500 50", LEAD, LEAD.replace(" I", " V2"), LEAD.replace(" I", " V2"))


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_byte_order_marks_and_blank_lines_change_nothing(tmp_path, line_end: str, mark: bytes) -> None:
    text = line_end.join(["# before", "", "  ", "\tx 1 500 50  ", "", LEAD.replace(" ", "\t"), "#after", "", ""])
    (tmp_path / "x.hea").write_bytes(mark + text.encode())
    header = read_wfdb_header(str(tmp_path / "x.hea"))
    assert header.comments == ("before", "after")
    assert header.leads == parse().leads
    assert header[1:5] == parse()[1:5]


def test_a_latin_1_comment_with_a_control_character_stays_one_comment(tmp_path) -> None:
    (tmp_path / "x.hea").write_bytes(f"x 1 500 50\n{LEAD}\n".encode() + b"# a\x85b\xe4\n")
    assert read_wfdb_header(str(tmp_path / "x.hea")).comments == ("a\x85b\xe4",)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# only a comment\n"])
def test_a_header_without_record_line_is_refused(tmp_path, content: bytes) -> None:
    (tmp_path / "x.hea").write_bytes(content)
    with pytest.raises(RecordError, match="holds no record line"):
        read_wfdb_header(str(tmp_path / "x.hea"))


def test_a_huge_header_is_refused(tmp_path) -> None:
    (tmp_path / "x.hea").write_bytes(b"#" * 70_000)
    with pytest.raises(RecordError, match="longer than 64 kB"):
        read_wfdb_header(str(tmp_path / "x.hea"))


def test_a_header_that_cannot_be_opened_is_named(tmp_path) -> None:
    with pytest.raises(RecordError, match="cannot read its header"):
        read_wfdb_header(str(tmp_path / "x.hea"))
