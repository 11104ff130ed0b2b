"""An entry of `targets`: model to file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.params.section import Count, Section


class OnnxFp32(Section):
    kind: Literal["onnx_fp32"]


class OnnxInt8Dynamic(Section):
    kind: Literal["onnx_int8_dynamic"]
    per_channel: bool


class OnnxInt8Static(Section):
    kind: Literal["onnx_int8_static"]
    per_channel: bool
    calibration: Literal["minmax", "entropy", "percentile"]
    rows: Count  # of the calibration split


class TensorRt(Section):
    kind: Literal["tensorrt"]
    precision: Literal["fp16", "int8"]
    batch_sizes: Annotated[list[Count], Field(min_length=3, max_length=3)]  # least, best, greatest
    rows: Count  # of the calibration split, for int8


Target = Annotated[OnnxFp32 | OnnxInt8Dynamic | OnnxInt8Static | TensorRt, Field(discriminator="kind")]
