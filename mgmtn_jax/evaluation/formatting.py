"""Number formatting shared by the report, the tables, the model card and JSON files."""

from __future__ import annotations

import numpy as np


def format_number(value: float | None, digits: int = 1, signed: bool = False) -> str:
    """Formats a number with fixed decimals and a true minus sign; an undefined number is a dash.

    Examples:
        >>> format_number(91.26), format_number(-0.5, 2, signed=True), format_number(None)
        ('91.3', '−0.50', '–')
    """
    if value is None:
        return "–"
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def json_number(value: np.ndarray | float) -> float | None:
    """Converts a number to a float that JSON can represent: None for `nan`."""
    return None if np.isnan(value) else float(value)
