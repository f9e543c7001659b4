"""What was measured of students, as rows of JSON: what predictors look at, and which rows they shall believe.

A row has the ``genes`` of a student and a `Measurement`; `described` adds what is left of the genes once their space is
gone. Knows rows; not how they are measured, nor what is predicted from them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nas.calm import calm_reference_ms
from nas.candidates import Candidates


def described(candidates: Candidates, n_tokens: int, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with ``variant``, ``features`` and ``parameters``; rows that have them stay as they are.

    Args:
        candidates: The space that the genes are of.
        n_tokens: Length of the texts that were measured.
        rows: Measured students.
    """
    found = []
    for row in rows:
        if "features" in row:
            found.append(dict(row))
            continue
        known = candidates.known(row["genes"], n_tokens, row.get("n_words"))
        facts = {"features": dict(known.features), "parameters": known.parameters}
        found.append({**row, "variant": candidates.variant(row["genes"]), **facts})
    return found


def believed(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Return the rows that nothing disturbed, and what was left out in words, empty for nothing.

    All are believed if some variant would lose more than half of its own.
    """
    calm_ms = calm_reference_ms([row["reference_ms"] for row in rows])
    calm = [row for row in rows if row["reference_ms"] <= calm_ms]
    kept, of_all = (Counter(row["variant"] for row in some) for some in (calm, rows))
    if len(calm) == len(rows) or any(2 * kept[variant] < n for variant, n in of_all.items()):
        return list(rows), ""
    n_lost = len(rows) - len(calm)
    return calm, f"{n_lost} of {len(rows)} measurements: the teacher took longer than {calm_ms:.3g} ms beside them"
