"""Engines for tests of whoever asks for them: nothing is started, everything is counted."""

from __future__ import annotations

from dataclasses import dataclass, field

from semievol.common import errors
from semievol.ports import EngineState, ModelInfo


@dataclass
class FakeEngine:
    """One that is there or on its way. `looks`: how often it still says that it is being started."""

    run: str
    slot: str
    address: str
    looks: int
    ending: bool = False


@dataclass
class FakeEngines:
    """As many as there are GPUs are at work side by side (None: any number), the others find no room. `looks`: how often one that has room says
    that it is being started. `slow_end`: whether one that is released is still there at the next look.

    `log` holds `start SLOT`, `end SLOT` in order. `fails`: what starts die of, one word each; `away`: whoever starts engines does not answer.
    Enter the same object again as a second controller would: what is there is adopted."""

    address: str = ""  # of a real service that stands for all of them; empty: SLOT:50053
    base: ModelInfo | None = None
    gpus: int | None = 1
    looks: int = 0
    slow_end: bool = False
    takes_turns: bool = True
    settings: str = "fake"
    fails: list[str] = field(default_factory=list)
    away: bool = False
    log: list[str] = field(default_factory=list)
    there: list[FakeEngine] = field(default_factory=list)
    most: int = 0  # that answered at the same time
    swaps: int = 0

    def capacity(self) -> int | None:
        return self.gpus

    def acquire(self, run: str, slot: str) -> EngineState:
        self._answer()
        if self.fails:
            return EngineState(reason=self.fails.pop(0), failed=True)
        found = next((one for one in self.there if (one.run, one.slot) == (run, slot) and not one.ending), None)
        if found is None:
            found = FakeEngine(run, slot, self.address or f"{slot}:50053", self.looks)
            self.there.append(found)
            self.log.append(f"start {slot}")
        if self.gpus is not None and self.there.index(found) >= self.gpus:
            return EngineState(reason="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.", crowded=True)
        self.most = max(self.most, min(len(self.there), self.gpus or len(self.there)))
        if found.looks:
            found.looks -= 1
            return EngineState(reason=f"The engine {slot} is being started.")
        return EngineState(found.address, base=self.base)

    def held(self, run: str) -> list[str]:
        self._answer()
        return [one.slot for one in self.there if one.run == run and not one.ending]

    def release(self, run: str, slot: str = "") -> bool:
        self._answer()
        mine = [one for one in self.there if one.run == run and slot in ("", one.slot)]
        for one in mine:
            if not one.ending:
                self.log.append(f"end {one.slot}")
            if one.ending or not self.slow_end:
                self.there.remove(one)
            one.ending = True
        return not any(one in self.there for one in mine)

    def used(self, run: str) -> tuple[int, int]:
        return sum(line.startswith("start") for line in self.log), self.swaps

    def die(self, slot: str) -> None:
        """Its pod is gone."""
        self.log.append(f"die {slot}")
        self.there = [one for one in self.there if one.slot != slot]

    def _answer(self) -> None:
        if self.away:
            raise errors.Unavailable("Whoever starts engines was told not to answer.")
