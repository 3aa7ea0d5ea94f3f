"""How much is pruned after each step of an iterative pruning."""

from __future__ import annotations

from typing import Literal

Schedule = Literal["constant", "linear", "geometric", "cubic"]


def reached(schedule: Schedule, amount: float, step: int, steps: int) -> float:
    """The share of the original weights or channels that is gone after `step` of `steps`; after the last, `amount`.

    - constant: all of it in the first step; the others only fine-tune.
    - linear: the same number in each step, `amount · t`, with `t = step / steps`.
    - geometric: in each step the same share of what remains, `1 - (1 - amount)^t` (Frankle and Carbin 2019, arXiv
      1803.03635). Five steps of 20 % of what remains leave 0.8^5 = 33 %, so 67 % and not 100 % are gone.
    - cubic: much at first and little at last, `amount · (1 - (1 - t)^3)` (Zhu and Gupta 2017, arXiv 1710.01878).
    """
    share = step / steps
    if step >= steps:
        return amount
    if schedule == "constant":
        return amount
    if schedule == "linear":
        return amount * share
    if schedule == "geometric":
        return float(1 - (1 - amount) ** share)
    return amount * float(1 - (1 - share) ** 3)
