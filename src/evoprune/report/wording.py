"""Numbers in words: one place for how counts, shares, sizes and times are written."""

from __future__ import annotations

from rich.filesize import decimal

__all__ = ["TIGHTENS", "count", "drop", "duration", "epochs", "percent", "score", "score_word", "size", "spent"]

NONE = "\N{EN DASH}"
TIGHTENS = "the masks tightened while training"


def score_word(accuracy: bool) -> str:
    """What a score is called."""
    return "accuracy" if accuracy else "score"


def count(value: float | None) -> str:
    """61470 -> `61,470`."""
    return NONE if value is None else f"{value:,.0f}"


def epochs(number: int) -> str:
    """1 -> `1 epoch`."""
    return f"{number} epoch{'' if number == 1 else 's'}"


def spent(pruned: int, dense: int) -> str:
    """28104 of 281040 -> `28,104 of 281,040 are left (10.00 %)`."""
    return f"{count(pruned)} of {count(dense)} are left ({percent(pruned / dense)})"


def percent(share: float | None, digits: int = 2) -> str:
    """0.9443 -> `94.43 %`. Never rounded up to 100 % or down to 0 % by the digits shown."""
    if share is None:
        return NONE
    text = f"{100 * share:.{digits}f}"
    step = 10.0**-digits
    if float(text) == 100 and share < 1:
        text = f"{100 - step:.{digits}f}"
    elif float(text) == 0 and share > 0:
        text = f"{step:.{digits}f}"
    return f"{text} %"


def score(value: float | None, accuracy: bool) -> str:
    """An accuracy in percent; any other score as it is."""
    if value is None:
        return NONE
    return percent(value) if accuracy else f"{value:.4g}"


def drop(dense: float | None, pruned: float | None, accuracy: bool) -> str:
    """How far the pruned score lies under the dense one: `0.75 points lower`."""
    if dense is None or pruned is None:
        return NONE
    lost = dense - pruned
    amount = f"{100 * abs(lost):.2f}" if accuracy else f"{abs(lost):.4g}"
    if float(amount) == 0:
        return "unchanged"
    return f"{amount}{' points' if accuracy else ''} {'lower' if lost > 0 else 'higher'}"


def size(file_bytes: int | None) -> str:
    """247800 -> `247.8 kB` (powers of ten)."""
    return NONE if file_bytes is None else decimal(file_bytes)


def duration(seconds: float) -> str:
    """75.2 -> `1 min 15 s`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
