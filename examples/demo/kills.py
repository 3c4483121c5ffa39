"""The kills: when the flow's process dies, at random but always in the middle of its work."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class KillPlan:
    """Draws one random place out of each of equal slices of the middle of the work.

    Args:
        kills: How many there shall be.
        total: Results in all.
        seed: The same seed gives the same places.
    """

    kills: int
    total: int
    seed: int
    done: list[int] = field(default_factory=list)
    """How many results had been published at each kill."""

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        width = 0.8 / max(self.kills, 1)
        self._places = [self.total * (0.1 + width * (slot + chance.random())) for slot in range(self.kills)]

    def is_due(self, published: int) -> bool:
        """Whether to kill now: the place is reached, and the process has published since the last kill."""
        index = len(self.done)
        if index == self.kills or published >= self.total:
            return False
        return published >= self._places[index] and (not self.done or published > self.done[-1])
