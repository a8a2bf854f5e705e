"""The report of `experiments.benchmark device` as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Section = dict[str, Any]
"""The measurements of one section; only `error` or `skipped` if there are none."""


def markdown(report: Mapping[str, Section]) -> str:
    """Formats the report for people."""
    device = report.get("device", {})
    title = f"{device.get('count', '')} x {device['kind']}" if "kind" in device else "this device"
    lines = [f"# Measured on {title}", ""]
    if "jax" in device:
        lines += [f"jax {device['jax']}, platform {device['platform']}.", ""]
    for name, section in report.items():
        if name == "device" and "kind" in section:
            continue
        lines += [f"## {name.capitalize()}", ""]
        unmeasured = section.get("error") or section.get("skipped")
        if unmeasured:
            lines += [f"Not measured: {unmeasured}", ""]
        elif name == "networks":
            lines += [*_network_table(section["rows"]), ""]
        else:
            lines += [*_list(section), ""]
    return "\n".join(lines)


def _network_table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| network | faces per batch | images/s | GB of a step | FLOP utilization |"
    yield "|---|---|---|---|---|"
    for row in rows:
        start = f"| {row['network']} | {row['batch_size']} |"
        if not row["fits"]:
            yield f"{start} does not fit | | |"
            continue
        memory = f"{row['step_bytes'] / 1e9:.2f}" if row["step_bytes"] else "unknown"
        used = f"{100 * row['utilization']:.1f} %" if row["utilization"] else "unknown peak"
        yield f"{start} {row['images_per_second']:.0f} | {memory} | {used} |"


def _list(section: Section) -> Iterator[str]:
    for name, value in section.items():
        if isinstance(value, list):
            yield f"- {name}:"
            yield from (f"  - {100 * row['fraction']:.1f} % {row['operation']}" for row in value)
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_text(item)}" for key, item in value.items())
        yield f"- {name.replace('_', ' ')}: {_text(value)}"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
