"""Figures of an evaluation as people read them: each with its standard error, what kind it is, and of how much."""

ERROR = "_error"  # the end of the key of a standard error, which stands beside the figure


def as_line(figures: dict[str, float], *, kind: str, part: str) -> str:
    """`NAME VALUE ± ERROR  ...`, and behind it the kind of a likelihood that is not exact, and the part of a split."""
    shown = [
        f"{key} {value:.4f}" + (f" ± {figures[key + ERROR]:.4f}" if key + ERROR in figures else "")
        for key, value in figures.items()
        if not key.endswith(ERROR)
    ]
    notes = [*([] if kind == "exact" else [kind]), *([f"partial: {part}"] if part else [])]
    return "  ".join(shown) + (f" ({', '.join(notes)})" if notes else "")
