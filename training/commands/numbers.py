"""Lists of numbers as a user gives them."""

import math

from ...debias.core.error import DDMError


def read_numbers(text: str, option: str) -> list[float]:
    """Numbers of "0,0.5,1", without repetitions.

    Raises:
        DDMError: something else, naming the option.
    """
    try:
        # Adding 0 turns −0 into 0, which is another folder otherwise.
        numbers = [float(part) + 0.0 for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise DDMError(f"{option} is {text!r}. Give numbers with commas between them, such as 0,0.5,1.")
    return list(dict.fromkeys(numbers))
