"""What a run says: each line once, however many processes work on it."""

from lightning.pytorch.utilities.rank_zero import rank_zero_only


@rank_zero_only
def print_rank_zero(text: str) -> None:
    """Print from the first process only."""
    print(text, flush=True)
