"""A made-up language that tests measure texts of."""

import random


def speech(length: int, seed: int) -> str:
    """Lines of made-up words, some much more frequent than others: one language, another text for every seed."""
    of_language, of_text = random.Random(0), random.Random(seed)
    syllables = [a + b for a in "bdfklmnprstvw" for b in ("a", "e", "i", "o", "an", "er")]
    lexicon = ["".join(of_language.choices(syllables, k=of_language.randint(1, 3))) for _ in range(400)]
    drawn = of_text.choices(lexicon, [1 / rank for rank in range(1, 401)], k=length // 2)
    ends = of_text.choices([" ", ", ", ".\n"], [8, 1, 1], k=len(drawn))
    return "".join(word + end for word, end in zip(drawn, ends, strict=True))[:length]
