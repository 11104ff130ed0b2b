"""The certificate as the matrix tells it: with the measured times, and why an INT8 build is no faster.

A reason costs the milliseconds of a call that it keeps in floats or adds over the same variant in fp32. Only what the
profile shows is given as one, the dearest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What turns one layout or type into another and computes nothing.
QUANTIZERS = {"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"}
REFORMATS = {"Cast", "ReorderInput", "ReorderOutput", "Transpose"}
# Instructions for which ONNX Runtime has integer kernels. Which of them it picks, its profile does not tell.
INTEGER_ISA = ("amx_int8", "avx_vnni_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "i8mm", "asimddp")
SIGNED_ISA = {"avx_vnni_int8", "i8mm", "asimddp"}  # that multiply signed by signed
UNSIGNED_ISA = {"amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2"}  # x86 without the first of the above
SMALL = 1_000_000  # multiply-adds of a layer and call below which starting its kernel shows
MOST = 3  # reasons that are told
LEAST = 0.03  # of a call's time below which nothing is a reason

Measured = Mapping[str, Mapping[str, float]]  # certificates.json of one cell and batch size


def told(
    certificate: Mapping[str, Any] | None,
    measured: Measured | None,
    fp32: Measured | None,
    isa: Sequence[str],
    times: float | None,
    reference: float | None,
    rows: int,
) -> dict[str, Any] | None:
    """A row's `certificate`; None for a build that claims no INT8.

    `measured` and `fp32` are the profiles of this cell and of its variant's fp32, at a batch of `rows`; None where
    not profiled. It is `times` as fast as that fp32, and `reference` times as fast as the matrix's reference; None
    if not timed. Reasons are given where one of them is below 1.
    """
    if certificate is None:
        return None
    if measured and not call(measured):  # all of it is below the profile's clock
        measured = None
    shares = {key: certificate[key] for key in ("integer_multiply_add_share", "integer_weight_share")}
    timed = layer_times(certificate["layers"], measured) if measured else {}
    total = call(measured) if measured else 0.0
    known = [layer for layer in certificate["layers"] if layer["node"] in timed]
    multiplying = sum(timed.values())
    in_integers = sum(timed[layer["node"]] for layer in known if layer["integer"])
    layers = [
        {
            **{key: layer[key] for key in ("name", "op", "kernel", "multiply_adds", "weights", "integer")},
            "time_share": timed[layer["node"]] / total if layer["node"] in timed else None,
        }
        for layer in certificate["layers"]
    ]
    why: list[str] = []
    if times is not None and times < 1:
        why = reasons(certificate["layers"], measured, fp32, isa, rows)
    elif times is not None and reference is not None and reference < 1:
        why = [
            f"the variant is slower, not INT8: {times:.2f} times as fast as its own fp32, which is "
            f"{reference / times:.2f} times as fast as the reference"
        ]
    return {
        **shares,
        "integer_time_share": in_integers / multiplying if multiplying else None,
        "isa": [flag for flag in INTEGER_ISA if flag in isa],
        "layers": layers,
        "reasons": why,
    }


def call(measured: Measured) -> float:
    """Milliseconds of a call, of all that ran."""
    return sum(measured["layers"].values()) + sum(measured["others"].values())


def layer_times(layers: Iterable[Mapping[str, Any]], measured: Measured) -> dict[str, float]:
    """{node: ms}, under the names of the certificate."""
    nodes, found = measured["layers"], {}
    for layer in layers:
        names = [layer["node"], *(f"{output}_nchwc" for output in layer["outputs"])]
        found[layer["node"]] = next((nodes[name] for name in names if name in nodes), None)
    return {name: milliseconds for name, milliseconds in found.items() if milliseconds is not None}


def reasons(
    layers: Sequence[Mapping[str, Any]],
    measured: Measured | None,
    fp32: Measured | None,
    isa: Sequence[str],
    rows: int,
) -> list[str]:
    """At most three, in words."""
    if not measured or not fp32:
        total = sum(layer["multiply_adds"] or 0 for layer in layers)
        found = in_floats(layers, {}, total)
        return [words for cost, words in sorted(found, key=lambda reason: -reason[0]) if cost >= LEAST][:MOST]
    timed, total = layer_times(layers, measured), call(measured)
    candidates = [
        *in_floats(layers, timed, sum(layer["multiply_adds"] or 0 for layer in layers)),
        *slow_integers(layers, timed, fp32, isa, rows),
        *conversions(measured["others"], fp32["others"]),
        *unfused(measured["others"], fp32["others"]),
    ]
    dear = [(cost, words) for cost, words in candidates if cost >= LEAST * total]
    return [f"{words} ({cost / total:.0%} of the time)" for cost, words in sorted(dear, key=lambda r: -r[0])[:MOST]]


def in_floats(
    layers: Sequence[Mapping[str, Any]], timed: Mapping[str, float], multiply_adds: int
) -> list[tuple[float, str]]:
    """(milliseconds, or share of the multiply-adds if not timed; words) of the layers that stay in floats."""
    groups: dict[tuple[str, bool, str], list[Mapping[str, Any]]] = {}
    for layer in layers:
        if not layer["integer"]:
            between = layer["between"] if layer["weights"] else ""
            groups.setdefault((layer["op"], layer["weights"], between), []).append(layer)
    found = []
    for (operator, weights, between), members in groups.items():
        part = sum(layer["multiply_adds"] or 0 for layer in members) / multiply_adds if multiply_adds else 0.0
        cost = sum(timed.get(layer["node"], 0.0) for layer in members) if timed else part
        first = max(members, key=lambda layer: timed.get(layer["node"], 0.0))
        where = f" {between}" if between else ""
        share = f"{part:.1%} of the multiply-adds"
        if not weights:
            words = f"{len(members)} products of two activations stay in floats: {first['name']} ..., {share}"
        elif len(members) == 1:
            words = f"{first['name']} ({operator}, {share}) computes in floats{where}"
        else:
            words = f"{len(members)} {operator} layers compute in floats{where}: {first['name']} ..., {share}"
        found.append((cost, words))
    return found


def slow_integers(
    layers: Sequence[Mapping[str, Any]], timed: Mapping[str, float], fp32: Measured, isa: Sequence[str], rows: int
) -> list[tuple[float, str]]:
    """(milliseconds more than the same layers take in fp32, why) if the integer kernels are the slower ones."""
    integer = [layer for layer in layers if layer["integer"] and layer["node"] in timed]
    # What stays in floats takes as long in both.
    floats = sum(timed[layer["node"]] for layer in layers if not layer["integer"] and layer["node"] in timed)
    mine = sum(timed[layer["node"]] for layer in integer)
    theirs = max(sum(fp32["layers"].values()) - floats, 0.0)
    if mine <= theirs:
        return []
    slower = f"the integer kernels take {mine:.2g} ms, the float ones of fp32 {theirs:.2g}"
    signed = [layer for layer in integer if layer["activations"] == "int8"]
    sizes = sorted(layer["multiply_adds"] * rows for layer in integer)
    median = sizes[len(sizes) // 2]
    if signed and UNSIGNED_ISA & set(isa) and not SIGNED_ISA & set(isa):
        why = (
            f"activations of {len(signed)} layers are signed and this processor has no instruction for signed by "
            f"signed: ONNX Runtime needs avx_vnni_int8 on x86, else unsigned activations; {slower}"
        )
    elif median < SMALL:
        why = f"the layers are small, half of them at most {median:,} multiply-adds a call: {slower}"
    else:
        why = slower
    inside = sum(1 for layer in integer if layer["kernel"] == "DynamicQuantizeMatMul")
    if inside and not signed:
        why += f"; {inside} of them find the range of their activations and quantize them at every call"
    return [(mine - theirs, why)]


def conversions(mine: Mapping[str, float], fp32: Mapping[str, float]) -> list[tuple[float, str]]:
    """(milliseconds more than in fp32, words) of quantizing and of reformatting."""
    found = []
    for kernels, words in ((QUANTIZERS, "converting to integers and back"), (REFORMATS, "changing the layout")):
        extra = {name: mine.get(name, 0.0) - fp32.get(name, 0.0) for name in sorted(kernels & set(mine))}
        names = ", ".join(name for name in sorted(extra, key=lambda name: -extra[name]) if extra[name] > 0)
        found.append((sum(extra.values()), f"{words}: {names}"))
    return found


def unfused(mine: Mapping[str, float], fp32: Mapping[str, float]) -> list[tuple[float, str]]:
    """(milliseconds more than in fp32, words) of what neither multiplies nor converts."""
    others = (set(mine) | set(fp32)) - QUANTIZERS - REFORMATS
    extra = {name: mine.get(name, 0.0) - fp32.get(name, 0.0) for name in sorted(others)}
    names = [name for name in sorted(extra, key=lambda name: -extra[name]) if extra[name] > 0][:MOST]
    return [(sum(extra.values()), f"other operators take longer than in fp32, which may fuse them: {', '.join(names)}")]
