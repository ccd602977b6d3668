"""Numbers as text of the report."""


def percent(share: float, decimals: int = 1) -> str:
    """Return a share of one in percent, with a narrow space before the sign."""
    return f"{100 * share:.{decimals}f}\u202f%"


def duration(seconds: float) -> str:
    """Return seconds as text in s, min or h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def several(count: int, name: str) -> str:
    """Return a number with its noun in the singular or plural."""
    return f"{count:,} {name}" if count == 1 else f"{count:,} {name}s"
