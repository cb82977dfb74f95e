"""The compiler's log: forms that its versions have printed, and any other text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from firmware_tools.compile.compiler_log import CompilerLog, OperatorStatus, parse_log

# Forms as in the tracker of google-coral/edgetpu; names and figures are our own.
PARTLY = """\
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 231 ms.

Input model: small.tflite
Input size: 3.03KiB
Output model: small_edgetpu.tflite
Output size: 116.78KiB
On-chip memory used for caching model parameters: 5.99MiB
On-chip memory remaining for caching model parameters: 74.00KiB
Off-chip memory used for streaming uncached model parameters: 1.50MiB
Number of Edge TPU subgraphs: 1
Total number of operations: 9
Operation log: small_edgetpu.log

Model successfully compiled but not all operations are supported by the Edge TPU. A percentage of the model will \
instead run on the CPU, which is slower. For details, visit g.co/coral/model-reqs.
Number of operations that will run on Edge TPU: 5
Number of operations that will run on CPU: 4

Operator                       Count      Status

CONV_2D                        4          Mapped to Edge TPU
CONV_2D                        2          More than one subgraph is not supported
DEQUANTIZE                     1          Operation is working on an unsupported data type
QUANTIZE                       1          Operation is otherwise supported, but not mapped due to some unspecified \
limitation
L2_NORMALIZATION               1          Mapped to Edge TPU
Compilation child process completed within timeout period.
Compilation succeeded!
"""
UNREADABLE = """\
Edge TPU Compiler version 16.0.384591198
ERROR: Didn't find op for builtin opcode 'TRANSPOSE_CONV' version '4'. An older version of this builtin might be \
supported.

ERROR: Registration failed.

Invalid model: small.tflite
Model could not be parsed
"""
ABORTED = "Edge TPU Compiler version 15.0.340273435\n\nInternal compiler error. Aborting! \n"
# The file beside the twin, of version 14: a table without the figures.
TABLE_ONLY = """\
Edge TPU Compiler version 14.1.317412892
Input: small.tflite
Output: small_edgetpu.tflite

Operator                       Count      Status

MEAN                           8          Mapped to Edge TPU
"""


def test_a_model_that_maps_in_part_is_read_row_by_row() -> None:
    log = parse_log(PARTLY)
    assert log.version == "16.0.384591198"
    assert log.succeeded
    assert log.complaints == ()
    assert log.on_chip_bytes == round(5.99 * 1024**2)
    assert log.remaining_bytes == 74 * 1024
    assert log.streamed_bytes == 3 << 19
    assert log.subgraphs == 1
    assert log.operators[1] == OperatorStatus("CONV_2D", 2, "More than one subgraph is not supported")
    assert log.mapped_by_name() == {"CONV_2D": 4, "DEQUANTIZE": 0, "L2_NORMALIZATION": 1, "QUANTIZE": 0}


def test_a_model_that_cannot_be_read_or_breaks_the_compiler_is_no_success() -> None:
    log = parse_log(UNREADABLE)
    assert not log.succeeded
    assert log.complaints[0].startswith("ERROR: Didn't find op for builtin opcode 'TRANSPOSE_CONV' version '4'")
    assert log.complaints[-1] == "Model could not be parsed"
    assert log.operators == ()
    assert parse_log(ABORTED).complaints == ("Internal compiler error. Aborting!",)
    assert parse_log(ABORTED).version == "15.0.340273435"


def test_figures_that_are_not_printed_are_unknown_and_not_zero() -> None:
    log = parse_log(TABLE_ONLY)
    assert (log.on_chip_bytes, log.streamed_bytes, log.subgraphs) == (None, None, None)
    assert log.mapped_by_name() == {"MEAN": 8}


def test_a_zero_is_a_figure() -> None:
    assert parse_log("Off-chip memory used for streaming uncached model parameters: 0.00B\n").streamed_bytes == 0


@given(st.one_of(st.text(), st.lists(st.sampled_from(PARTLY.splitlines())).map("\n".join)))
def test_any_text_gives_a_log(text: str) -> None:
    log = parse_log(text)
    assert isinstance(log, CompilerLog)
    assert all(row.count >= 0 and row.status for row in log.operators)
    assert set(log.mapped_by_name()) == {row.name for row in log.operators}
