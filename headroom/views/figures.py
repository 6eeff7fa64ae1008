"""Numbers and foreign text as short words for people. Pure functions; nothing is printed."""

from datetime import UTC, datetime

NO_NUMBER = "-"  # what was not measured, or is infinite


def printable(text: str) -> str:
    """Text of others without what steers a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def percent(fraction: float | None, sign: bool = True) -> str:
    """Small values keep a digit that says something: +0.006 %, +1.15 %, +11.7 %, +358 %."""
    if fraction is None:
        return NO_NUMBER
    value = 100 * fraction
    decimals = 3 if abs(value) < 0.9995 else 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:{'+' if sign else ''}.{decimals}f} %"


def number(value: float | None, form: str) -> str:
    return NO_NUMBER if value is None else format(value, form)


def hundredfold(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def drift_percent(fraction: float | None) -> str:
    """Per cent with as many decimals in every row, so that a column can be read at a glance."""
    return number(hundredfold(fraction), "+,.3f")


def size(count: float) -> str:
    """Decimal units, three digits."""
    if abs(count) < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if abs(count) < 999.5 or unit == "TB":
            break
    return f"{count:.{2 if abs(count) < 9.995 else 1 if abs(count) < 99.95 else 0}f} {unit}"


def duration(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def age(moment: datetime | None) -> str:
    """How long ago, to one figure: 42 s, 3 min, 5 h, 12 d."""
    if moment is None:
        return ""
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
