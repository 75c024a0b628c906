"""Rows as a table in text, and the least of each kind at the end."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

HEADER = (
    f"{'K x N':>12} {'M':>4} {'thr':>3} {'memory':6} {'kernel':18} {'us':>10} {'GB/s':>6} "
    f"{'GOPS':>6}  {'of limit':>13}  {'4b g32':>6} {'same':>6} {'1 thr':>5} {'int8':>6} "
    f"{'apart':>6} {'none':>6} {'prep':>5}"
)


def line(row: Row) -> str:
    """One row of the table under ``HEADER``."""

    def ratio(name: str, width: int) -> str:
        return f"{row[name]:{width - 1}.2f}x" if name in row else " " * width

    limit = f"{row['percent']:3.0f}% of {row['limit']}"
    prepared = f"{row['preparation']:5.1%}" if "preparation" in row else ""
    return (
        f"{row['K']:>6}x{row['N']:<5} {row['M']:>4} {row['threads']:>3} {row['memory']:6} "
        f"{row['kernel']:18} {row['us']:10.1f} {row['GB/s']:6.1f} {row['GOPS']:6.0f}  "
        f"{limit:>13}  {ratio('x 4b g32', 6)} {ratio('x same', 6)} {ratio('x 1 thread', 5)} "
        f"{ratio('x int8 kernel', 6)} {ratio('x apart', 6)} {ratio('x none', 6)} {prepared}"
    ).rstrip()


def summary(rows: list[Row]) -> list[str]:
    """The least percentage and ratios of every section, M, memory and number of threads."""
    kinds: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if "bits" in row:
            kind = tuple(row[name] for name in ("section", "M", "memory", "threads"))
            kinds.setdefault(kind, []).append(row)
    lines = []
    for (section, m, memory, threads), members in kinds.items():
        lines.append(f"{section} M={m} {memory}, {threads} thread(s), {len(members)} rows; least:")
        lines += _least(members, "percent", "% of its limit", 0)
        lines += _least(members, "x 4b g32", "x ORT 4b g32", 2)
        for bits in sorted({row["bits"] for row in members}):
            same = [row for row in members if row["bits"] == bits]
            lines += _least(same, "x same", f"x ORT of the same bits, for {bits}", 2)
        lines += _least(members, "x 1 thread", "x one thread", 2)
        lines += _least(members, "x int8 kernel", "x int8 activations and weights", 2)
        lines += _least(members, "x apart", "x a branch of stock nodes", 2)
        lines += _least(members, "x none", "x the same without", 2)
    return lines


def _least(rows: list[Row], name: str, unit: str, digits: int) -> list[str]:
    found = [row for row in rows if name in row]
    if not found:
        return []
    least = min(found, key=lambda row: float(row[name]))
    value = f"{least[name]:.{digits}f}"
    return [f"  {value:>5}{unit}: {least['kernel']} at {least['K']}x{least['N']}"]
