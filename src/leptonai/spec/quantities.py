"""Amounts as people write them ("2GiB", "500m", "1h30m"), parsed once, at the edge."""

import re
from datetime import datetime
from decimal import Decimal
from math import ceil

from leptonai.errors import InvalidRequest

_NUMBER = r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,9})?)"
_MEMORY = re.compile(_NUMBER + r"\s*(?P<unit>[A-Za-z]*)")
_CPU = re.compile(_NUMBER + r"(?P<milli>m?)")
_DURATION_PART = re.compile(r"([0-9]{1,9})([smhd])")
_DURATION = re.compile(r"(?:[0-9]{1,9}[smhd])+|[0-9]{1,10}")
_BYTES = {
    "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9,
    "t": 10**12, "tb": 10**12,
    "ki": 1 << 10, "kib": 1 << 10, "mi": 1 << 20, "mib": 1 << 20, "gi": 1 << 30, "gib": 1 << 30,
    "ti": 1 << 40, "tib": 1 << 40,
}  # fmt: skip
_MIB = 1 << 20
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LEVELS = {"low": 1, "mid": 4, "high": 7}  # each has three steps
_PRIORITY_CLASS = re.compile(r"(low|mid|high)-([1-9])000")


def memory_mib(text: str) -> int:
    """ "2GiB", "1.5G" or "512Mi" in MiB, rounded up: what was asked for must fit.

    Raises:
        InvalidRequest: not an amount; or one without a unit, which half of all readers take for
            another one than the writer meant.
    """
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(f"{text!r} is not an amount of memory", hint=_MEMORY_HINT)
    unit = match["unit"].lower()
    if not unit:
        raise InvalidRequest(f"the memory {text!r} has no unit", hint=_MEMORY_HINT)
    if unit not in _BYTES:
        raise InvalidRequest(f"unknown unit {match['unit']!r} of memory", hint=_MEMORY_HINT)
    amount = Decimal(match["number"]) * _BYTES[unit]
    mib = ceil(amount / _MIB)
    if mib == 0:
        raise InvalidRequest(f"the memory {text!r} is nothing", hint=_MEMORY_HINT)
    return mib


def gpus(text: str) -> float:
    """ "2" or "0.5" GPUs.

    Raises:
        InvalidRequest: not a number of them.
    """
    match = re.fullmatch(_NUMBER, text.strip())
    if match is None:
        raise InvalidRequest(f"{text!r} is not a number of GPUs", hint="for example 1, 8 or 0.5")
    return float(match["number"])


def cpu_cores(text: str) -> float:
    """ "2", "2.5" or "500m" in cores.

    Raises:
        InvalidRequest: not an amount, or less than a thousandth of a core.
    """
    match = _CPU.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(f"{text!r} is not a number of CPU cores", hint=_CPU_HINT)
    millis = Decimal(match["number"]) * (1 if match["milli"] else 1_000)
    if millis < 1:
        raise InvalidRequest(f"{text!r} CPU cores are less than a thousandth", hint=_CPU_HINT)
    return float(millis / 1_000)


def duration_s(text: str) -> int:
    """ "90", "90s", "15m", "1h30m" or "3d" in seconds.

    Raises:
        InvalidRequest: not a duration.
    """
    stripped = text.strip()
    if not _DURATION.fullmatch(stripped):
        raise InvalidRequest(f"{text!r} is not a duration", hint="for example 90s, 15m, 1h30m, 3d")
    if stripped.isdigit():
        return int(stripped)
    return sum(int(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(stripped))


def moment_s(text: str, now_s: float) -> int:
    """ "+90m" from now, or a time like "2030-01-31T08:00", in seconds since 1970; a time without
    a zone is this machine's.

    Raises:
        InvalidRequest: not a time.
    """
    stripped = text.strip()
    if stripped.startswith("+"):
        return int(now_s) + duration_s(stripped[1:])
    try:
        return int(datetime.fromisoformat(stripped).timestamp())
    except (ValueError, OverflowError, OSError) as wrong:
        raise InvalidRequest(
            f"{text!r} is not a time", hint="for example +90m, or 2030-01-31T08:00"
        ) from wrong


def past_s(text: str, now_s: float) -> float:
    """ "90m" ago, or a time like "2030-01-31T08:00", in seconds since 1970; a time without a zone
    is this machine's.

    Raises:
        InvalidRequest: neither.
    """
    stripped = text.strip()
    if _DURATION.fullmatch(stripped):
        return now_s - duration_s(stripped)
    try:
        return datetime.fromisoformat(stripped).timestamp()
    except (ValueError, OverflowError, OSError) as wrong:
        raise InvalidRequest(
            f"{text!r} is not a time", hint="for example 90m, or 2030-01-31T08:00"
        ) from wrong


def priority_class(text: str) -> str:
    """ "low", "mid", "high", 1 to 9, or the class itself: "low-1000" to "high-9000".

    Raises:
        InvalidRequest: none of these.
    """
    word = text.strip().lower()
    if word in _LEVELS:  # the middle step of its level
        return f"{word}-{_LEVELS[word] + 1}000"
    if re.fullmatch(r"[1-9]", word):
        return f"{_level(int(word))}-{word}000"
    match = _PRIORITY_CLASS.fullmatch(word)
    if match is None or _level(int(match[2])) != match[1]:
        raise InvalidRequest(
            f"{text!r} is not a priority",
            hint="use low, mid or high, a number from 1 (last) to 9 (first), or one of low-1000 "
            "… high-9000",
        )
    return word


def _level(step: int) -> str:
    return ("low", "mid", "high")[(step - 1) // 3]


def show_mib(mib: int) -> str:
    """1536 is "1.5GiB", 512 is "512MiB"."""
    if mib < 1_024:
        return f"{mib}MiB"
    return f"{mib / 1_024:.1f}".removesuffix(".0") + "GiB"


def show_bytes(size_bytes: float) -> str:
    """900 is "900B", 1536 is "1.5KiB"."""
    units = ["TiB", "GiB", "MiB", "KiB", "B"]
    while size_bytes >= 1_024 and len(units) > 1:
        size_bytes /= 1_024
        units.pop()
    return f"{size_bytes:.1f}".removesuffix(".0") + units[-1]


_MEMORY_HINT = "write a number and a unit, for example 512MiB, 2GiB or 1.5GB"
_CPU_HINT = "for example 2, 0.5 or 500m"
