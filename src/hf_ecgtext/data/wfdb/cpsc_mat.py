"""CPSC2018's own files: a MATLAB struct `ECG` with `sex`, `age` and `data`, and no header.

The few parts of the MATLAB 5 format that these files use are parsed here, because `scipy.io.loadmat` (1.17.1) ends the
whole process with a segmentation fault on damaged files: on 3 of 52 with one to three changed bytes. Here every length
is checked before it is believed.

Source: "MAT-File Format" (MathWorks) for the format; the challenge's page (2018.icbeb.org, which is gone) for 12 leads
at 500 Hz. That `data` is in mV was checked on the files themselves.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from hf_ecgtext.data.plausibility import glance, judge_amplitude, needs_judgement
from hf_ecgtext.data.records import EcgRecord
from hf_ecgtext.errors import RecordError
from hf_ecgtext.leads import STANDARD_LEADS

CPSC2018_SAMPLING_RATE_HZ = 500.0
_FIX = "Give CPSC2018's own .mat file, or put the WFDB header (.hea) beside the .mat file."

_MATLAB_5_MAGIC = b"MATLAB 5.0"
_MATLAB_5_HEADER_BYTES = 128
_MATLAB_7_3_MAGIC = b"MATLAB 7.3"  # an HDF5 file behind 512 bytes of MATLAB's own
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_BYTES = 1 << 26  # 64 MB, packed, unpacked in all, and as float64; a recording of 144 s has 7 MB
_MAX_ELEMENTS = 256  # side by side; CPSC2018's struct has 5. Empty ones take 8 bytes in the file and 300 in memory
_NUMBER_TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_TEXT_TYPES = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
_MATRIX, _COMPRESSED = 14, 15  # element types
_STRUCT, _CHAR, _NUMBERS = 2, 4, range(6, 16)  # array classes; numbers are double, single and the integers
_FLOATING = (6, 7)
_COMPLEX = 0x800


def is_matlab_file(path: str) -> bool:
    """Whether a file starts like one of MATLAB 5 or 7.3; PhysioNet's `.mat` signal files are of version 4."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MATLAB_5_MAGIC)).startswith((_MATLAB_5_MAGIC, _MATLAB_7_3_MAGIC, _HDF5_MAGIC))
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return False


def read_cpsc2018_mat(path: str) -> EcgRecord:
    """Read one native CPSC2018 file; see [`decode_cpsc2018_mat`].

    Args:
        path (`str`): The `.mat` file.

    Raises:
        RecordError: If the file is damaged or is not a CPSC2018 recording.
    """
    record = path.removesuffix(".mat")
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise RecordError(record, f"its MATLAB file cannot be read ({error}).", "Download the file again.") from error
    return decode_cpsc2018_mat(content, record)


def decode_cpsc2018_mat(content: bytes, record: str) -> EcgRecord:
    """The recording in the content of one native CPSC2018 file.

    Its labels lie in `REFERENCE.csv`, and are the business of the data set's source.

    Args:
        content (`bytes`): Of the `.mat` file.
        record (`str`): Its path or name without extension; the last part becomes the record id.

    Raises:
        RecordError: If the content is damaged or is not a CPSC2018 recording.
    """
    if content.startswith((_MATLAB_7_3_MAGIC, _HDF5_MAGIC)):
        raise RecordError(
            record,
            "its MATLAB file is of version 7.3 (HDF5), which is not read.",
            "Save it in MATLAB with save(name, 'ECG', '-v7'), or write a WFDB record with wfdb.wrsamp(...).",
        )
    try:
        fields = _find_struct(content, "ECG")
    except (zlib.error, struct.error, ValueError) as error:
        raise RecordError(record, f"its MATLAB file cannot be read ({error}).", "Download the file again.") from error
    if fields is None or "data" not in fields:
        raise RecordError(record, "its MATLAB file holds no struct 'ECG' with a field 'data'.", _FIX)
    signal = fields["data"]
    if not isinstance(signal, np.ndarray):
        raise RecordError(record, "its field 'data' holds no real numbers.", _FIX)
    if signal.ndim != 2 or signal.shape[0] != len(STANDARD_LEADS) or signal.shape[1] == 0:
        raise RecordError(record, f"its field 'data' has shape {signal.shape}; expected (12, num_samples).", _FIX)
    if signal.dtype.kind in "iu":
        raise RecordError(
            record,
            f"its field 'data' holds integers ({signal.dtype}), and a .mat file does not say of which unit; CPSC2018's "
            "own are mV in floating point.",
            "Divide them by their gain in the file, or put a WFDB header (.hea) with the gain beside a version 4 file.",
        )
    if np.isinf(signal).any() or np.nanmax(np.abs(signal), initial=0.0) > 1e6:
        raise RecordError(record, "its field 'data' holds values that cannot be mV.", "Download the file again.")
    if needs_judgement(np.ptp(glance(signal), axis=-1)):
        doubt = judge_amplitude(signal)
        if doubt is not None and doubt.is_impossible:
            raise RecordError(record, f"its field 'data' is no mV: {doubt.problem}.", "Convert it to mV in the file.")

    age, sex = fields.get("age"), fields.get("sex")
    attributes: dict[str, Any] = {}
    if isinstance(age, np.ndarray) and age.size == 1 and math.isfinite(age.item()):
        attributes["age"] = float(age.item())
    if isinstance(sex, str) and sex:
        attributes["sex"] = sex
    return EcgRecord(
        signal=np.ascontiguousarray(signal, dtype=np.float32),
        sampling_rate_hz=CPSC2018_SAMPLING_RATE_HZ,
        lead_names=STANDARD_LEADS,
        record_id=os.path.basename(record),
        attributes=attributes,
    )


def _find_struct(content: bytes, name: str) -> dict[str, Any] | None:
    """The fields of the 1 x 1 struct variable `name`: arrays, texts, and `None` for what is neither."""
    if len(content) > _MAX_BYTES:
        raise ValueError("it is longer than 64 MB")
    if content[126:128] != b"IM":
        raise ValueError("it is not written in little-endian order")
    budget = _MAX_BYTES
    for element_type, data in _elements(memoryview(content)[_MATLAB_5_HEADER_BYTES:]):
        if element_type == _COMPRESSED:
            inflater = zlib.decompressobj()
            inflated = inflater.decompress(data, max(1, budget))  # 0 would mean no limit
            budget -= len(inflated)
            if not inflater.eof:
                raise ValueError("its compressed data is incomplete, or unpacks to more than 64 MB")
            inner = list(_elements(memoryview(inflated)))
        else:
            inner = [(element_type, data)]
        for inner_type, inner_data in inner:
            if inner_type == _MATRIX:
                array_class, _, shape, array_name, rest = _array_header(inner_data)
                if array_name == name and array_class == _STRUCT and math.prod(shape) == 1:
                    return _struct_fields(rest)
    return None


def _struct_fields(elements: list[tuple[int, memoryview]]) -> dict[str, Any]:
    """Names, all padded to one length, then one matrix per name."""
    if len(elements) < 2 or len(elements[0][1]) != 4:
        raise ValueError("a struct has no field names")
    (name_bytes,) = struct.unpack("<i", elements[0][1])
    packed = bytes(elements[1][1])
    if name_bytes <= 0 or len(packed) != name_bytes * (len(elements) - 2):
        raise ValueError("a struct does not have one value per field name")
    names = [
        packed[start : start + name_bytes].split(b"\0")[0].decode("ascii")
        for start in range(0, len(packed), name_bytes)
    ]
    return {
        name: _array_value(data) if element_type == _MATRIX else None
        for name, (element_type, data) in zip(names, elements[2:], strict=True)
    }


def _array_value(data: memoryview) -> Any:
    """An array of real numbers, a text of one line, or `None` for anything else."""
    if len(data) == 0:
        return None  # MATLAB's empty field
    array_class, is_complex, shape, _, rest = _array_header(data)
    if not rest or is_complex:
        return None
    element_type, values = rest[0]
    if array_class == _CHAR and element_type in _TEXT_TYPES:
        return bytes(values).decode(_TEXT_TYPES[element_type])
    if array_class in _NUMBERS and element_type in _NUMBER_TYPES:
        numbers = np.frombuffer(values, _NUMBER_TYPES[element_type])
        if numbers.size != math.prod(shape):
            raise ValueError(f"an array of shape {shape} has {numbers.size} values")
        if 8 * numbers.size > _MAX_BYTES:
            raise ValueError(f"an array of shape {shape} takes more than 64 MB")
        # MATLAB stores whole numbers of floating-point arrays as small integers: the class counts, not the type.
        return (numbers.astype(np.float64) if array_class in _FLOATING else numbers).reshape(shape, order="F")
    return None


def _array_header(data: memoryview) -> tuple[int, bool, tuple[int, ...], str, list[tuple[int, memoryview]]]:
    """Class, whether it is complex, shape and name of a matrix element, and the elements that follow them."""
    elements = list(_elements(data))
    if len(elements) < 3 or len(elements[0][1]) != 8 or not 8 <= len(elements[1][1]) <= 32:
        raise ValueError("an array has no complete header")
    flags, _ = struct.unpack("<II", elements[0][1])
    shape = tuple(np.frombuffer(elements[1][1], "<i4").tolist())
    if min(shape) < 0:
        raise ValueError(f"an array has the shape {shape}")
    return flags & 0xFF, bool(flags & _COMPLEX), shape, bytes(elements[2][1]).decode("ascii"), elements[3:]


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and content of one element after the other; short ones hold up to 4 bytes within their tag."""
    position = count = 0
    while position < len(data):
        count += 1
        if count > _MAX_ELEMENTS:
            raise ValueError(f"it has more than {_MAX_ELEMENTS} elements side by side")
        element_type, num_bytes = struct.unpack_from("<II", data, position)
        start = position + 8
        if element_type >> 16:
            element_type, num_bytes, start = element_type & 0xFFFF, element_type >> 16, position + 4
            if num_bytes > 4:
                raise ValueError("a short element claims more than 4 bytes")
        if num_bytes > len(data) - start:
            raise ValueError("it ends inside an element")
        yield element_type, data[start : start + num_bytes]
        # Elements start at multiples of 8 bytes, except those that follow compressed ones.
        position = start + num_bytes if element_type == _COMPRESSED else -(-(start + num_bytes) // 8) * 8
