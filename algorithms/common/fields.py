"""Types of config fields that state their own check (pydantic), and the settings that every config class has.

A check that takes two fields stands in the class's `__post_init__`, as a ValueError that begins with a field's name.
What plays no part beside another field's value is told by the class's `unused`: field -> the one because of which.
"""

from typing import Annotated

from pydantic import ConfigDict, Field

# An unknown field is an error. YAML reads `prompt: 1984` as a number where a text is meant; true is no number, nor "1".
STRICT = ConfigDict(extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False)

Count = Annotated[int, Field(ge=1, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, strict=True)]  # what NumPy and Lightning take, too
Number = Annotated[float, Field(strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True)]
NonNegative = Annotated[float, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
PositiveShare = Annotated[float, Field(gt=0, le=1, strict=True)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1, strict=True)]
