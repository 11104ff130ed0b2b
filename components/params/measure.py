"""parity, benchmark, compare, policy: what is measured, and what a cell must show."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from components import remote
from components.params.section import Count, FilePath, OpenShare, Positive, Section, Share, Text


def _remote(given: str | None) -> str | None:
    if given is not None and (wrong := remote.problem(given)):
        raise ValueError(wrong)
    return given


def _endpoint(given: str | None) -> str | None:
    try:
        parts = urlsplit(given or "")
        _ = parts.port
    except ValueError:  # its words would show what stands there
        raise ValueError("must be http(s)://host:port, the port a number up to 65535") from None
    if given is not None and (parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc):
        raise ValueError("must be http(s)://host:port, without credentials")
    return given


class Parity(Section):
    batch_sizes: Annotated[list[Count], Field(min_length=1)]
    rows: Count  # real rows per batch size
    max_export_difference: Positive  # largest logit difference torch to ONNX
    min_export_agreement: Share  # top-1 answers torch to ONNX
    min_build_agreement: Share  # top-1 answers ONNX to a quantized build
    max_build_kl: Positive | None = None  # KL divergence, nats, mean over the rows; null or left out is no limit


class Benchmark(Section):
    batch_sizes: Annotated[list[Count], Field(min_length=1)]
    rounds: Annotated[int, Field(ge=5, le=100_000)]
    max_rounds: Annotated[int, Field(ge=5, le=100_000)]  # while it cannot be told what is faster
    warmup: Annotated[int, Field(ge=1, le=100_000)]
    seconds_per_round: Positive  # for all cells of one batch size together
    loads: Annotated[int, Field(ge=1, le=100)]  # fresh processes that load each build, one after the other


class Compare(Section):
    confidence: OpenShare
    resamples: Annotated[int, Field(ge=100, le=1_000_000)]


class BatchBound(Section):
    batch_size: Count  # one of benchmark.batch_sizes
    latency_ms: Positive


class Bounds(Section):
    """What a cell may cost at most; null or left out is no bound."""

    latency_ms: Positive | None  # median of a call at policy.batch_size
    size_mb: Positive | None
    memory_mb: Positive | None = None  # peak over loading and a call at each of benchmark.batch_sizes
    batches: list[BatchBound] = Field(default_factory=list)  # latency at other batch sizes


class Caps(Section):
    """What may get worse, against the reference and the champion; null or left out is no cap."""

    flips: Share | None = None  # of the test rows: right before, now wrong
    worst_class_drop: Share | None = None  # accuracy of the class that lost most
    ece: Share | None = None  # calibration error of the cell itself


class Signing(Section):
    """Keys of registered versions; TEMPER_SIGNING_KEY and TEMPER_VERIFY_KEY in the environment come first."""

    required: bool = False  # without a key nothing is promoted, and an unsigned version is not opened
    key: FilePath | None = None  # the private one, where versions are made
    public_key: FilePath | None = None  # where they are only opened


class Push(Section):
    """What a version is made from goes to a DVC remote before its promotion. Left out, nothing is pushed."""

    remote: Annotated[Text | None, AfterValidator(_remote)] = None  # left out: the default of DVC's config
    endpoint: Annotated[Text | None, AfterValidator(_endpoint)] = None  # of an S3-compatible server; left out: Amazon's
    required: bool  # whether a push that fails keeps the champion from being replaced
    timeout_s: Positive


class Policy(Section):
    metric: Literal["accuracy"]
    margin: Share  # a cell may be worse than the best and than the champion by at most this
    confidence: OpenShare | None = None  # at which the interval too must keep the margin; null: the difference alone
    batch_size: Count  # at which latency is bounded and minimised
    caps: Caps | None = None
    bounds: Bounds
    integer_share: Share | None = None  # of multiply-adds in integer kernels, by the INT8 certificate that it requires
    objective: Literal["latency_ms", "size_mb", "accuracy"]
    signing: Signing | None = None  # null or left out: as the environment says
    push: Push | None = None
