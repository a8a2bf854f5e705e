"""Numbers as people and JSON read them: one way for the report, the tables and the model card."""

from __future__ import annotations

import numpy as np


def format_number(value: float | None, digits: int = 1, signed: bool = False) -> str:
    """A number with a fixed number of decimals; a dash where it is undefined, a true minus sign.

    Examples:
        >>> format_number(91.26), format_number(-0.5, 2, signed=True), format_number(None)
        ('91.3', '−0.50', '–')
    """
    if value is None:
        return "–"
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def json_number(value: np.ndarray | float) -> float | None:
    """A float that JSON can hold: None for `nan`."""
    return None if np.isnan(value) else float(value)
