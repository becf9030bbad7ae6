"""Formats numbers for a person: counts, sizes, durations, percentages, bars."""

from __future__ import annotations

import time

_LAST_MOMENT = 253_402_200_000.0  # in the year 9999
_EIGHTHS = " ▏▎▍▌▋▊▉"


def count(number: float) -> str:
    """Formats a count with three digits: 12345 -> '12.3k', 935296 -> '935k', 174604259328 -> '175B'."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit * 0.9995:
            scaled = number / limit
            return f"{scaled:.3g}{unit}" if scaled < 999.5 else f"{scaled:.0f}{unit}"
    return f"{number:.0f}"


def plural(number: int, thing: str) -> str:
    """Returns a number and its noun: (1, 'token') -> '1 token', (2000, 'token') -> '2,000 tokens'."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Formats a number of bytes in powers of 1000: 1536 -> '1.5 kB'."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit * 0.99995:
            return f"{number / limit:.1f} {unit}"
    return f"{number:.0f} B"


def duration(seconds: float) -> str:
    """Formats seconds: 7.2 -> '7s', 95 -> '1m 35s', 7260 -> '2h 01m'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def age(now: float, then: float) -> str:
    """Returns the time from `then` to `now` in words: 'just now', '3 min ago'; a date after 30 days.

    Both are in seconds since the epoch.
    """
    seconds = now - then
    if not -60 <= seconds < 30 * 86_400:  # clocks of two machines may differ a little
        return time.strftime("%Y-%m-%d", time.localtime(within_calendar(then)))
    for unit, length in (("day", 86_400), ("h", 3600), ("min", 60)):
        if (number := int(seconds // length)) > 0:
            return f"{plural(number, unit) if unit == 'day' else f'{number} {unit}'} ago"
    return "just now"


def within_calendar(seconds: float) -> float:
    """Clamps seconds since the epoch to dates that a calendar can show, because a file's time can be any number."""
    return min(max(seconds, 0.0), _LAST_MOMENT)


def precise_duration(seconds: float) -> str:
    """Formats seconds or milliseconds: 0.0042 -> '4.2 ms', 0.31 -> '310 ms', 1.234 -> '1.23 s', 95 -> '1m 35s'."""
    if seconds >= 60:
        return duration(seconds)
    return f"{seconds:.2f} s" if seconds >= 0.9995 else f"{seconds * 1000:.{1 if seconds < 0.01 else 0}f} ms"


def percent(share: float) -> str:
    """Formats a share in per cent: 0.4137 -> '41%', 0.0042 -> '0.4%'."""
    return f"{share:.0%}" if share >= 0.00995 or share == 0 else f"{share:.1%}" if share >= 0.0005 else "<0.1%"


def decimal(value: float) -> str:
    """Formats a share with two decimals: 0.524 -> '.52', 1 -> '1.00'."""
    return f"{value:.2f}".removeprefix("0")


def bar(share: float, width: int, full: str = "█") -> str:
    """Returns a bar whose full length is `width` cells, in eighths of a cell.

    If `full` is not '█', the bar has whole cells only: at least one if the share does not round to zero.
    """
    eighths = round(max(0.0, min(share, 1.0)) * width * 8)
    if full != "█":
        return full * max(round(eighths / 8), min(eighths, 1))
    return full * (eighths // 8) + (_EIGHTHS[eighths % 8].strip())


def signed(share: float) -> str:
    """Formats a share in per cent, with its sign: 0.4137 -> '+41%', -0.2 -> '-20%', 0 -> '0%'."""
    return ("+" if share > 0 else "-" if share < 0 else "") + percent(abs(share))
