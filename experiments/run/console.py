"""What a run says: each line once, however many processes work on it."""

from lightning.pytorch.utilities.rank_zero import rank_zero_only


def is_rank_zero() -> bool:
    """Whether this is the first of the processes that work on a run."""
    return getattr(rank_zero_only, "rank", 0) == 0


@rank_zero_only
def print_rank_zero(text: str, end: str = "\n") -> None:
    """Print from the first process only."""
    print(text, end=end, flush=True)
