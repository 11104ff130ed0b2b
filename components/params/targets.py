"""An entry of `targets`: model to file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from components.params.section import Count, Section, Share


class OnnxFp32(Section):
    kind: Literal["onnx_fp32"]


class OnnxFp16(Section):
    kind: Literal["onnx_fp16"]


class OnnxInt8Dynamic(Section):
    kind: Literal["onnx_int8_dynamic"]
    per_channel: bool
    min_integer_share: Share  # of the multiply-adds of the layers that it quantizes: Gemm and MatMul with weights


class OnnxInt8Static(Section):
    kind: Literal["onnx_int8_static"]
    per_channel: bool
    calibration: Literal["minmax", "entropy", "percentile"]
    rows: Count  # of the calibration split
    min_integer_share: Share  # of the multiply-adds of the layers that it quantizes: those with weights


class OnnxCuda(Section):
    kind: Literal["onnx_cuda"]
    precision: Literal["fp32", "fp16"]


def _rising(sizes: list[int]) -> list[int]:
    if sizes != sorted(sizes):
        raise ValueError(f"must rise from least to greatest, got {sizes}")
    return sizes


class TensorRt(Section):
    kind: Literal["tensorrt"]
    precision: Literal["fp16", "int8"]
    batch_sizes: Annotated[
        list[Count], Field(min_length=3, max_length=3), AfterValidator(_rising)
    ]  # least, best, greatest
    rows: Count  # of the calibration split, for int8


Target = Annotated[
    OnnxFp32 | OnnxFp16 | OnnxInt8Dynamic | OnnxInt8Static | OnnxCuda | TensorRt, Field(discriminator="kind")
]
