"""An int8 model within its bounds: all blocks if that will do, else all but the fewest."""

from __future__ import annotations

import shutil
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mwactl.errors import VerificationError
from mwactl.export.candidates import Candidates
from mwactl.export.exclusions import Block, Spared, search
from mwactl.export.gate import Bound
from mwactl.export.graph import TOWERS, TowerName
from mwactl.export.parity import Parity
from mwactl.export.quantise import Quantised, blocks_of, quantise
from mwactl.export.towers import Graphs
from mwactl.files import canonical_json, sha256_bytes
from mwactl.progress import Reporter, track


@dataclass(frozen=True)
class Int8:
    """A quantised model.

    Args:
        graphs: The graphs.
        parity: What was measured with them.
        spared: The blocks that stayed in fp32, the most damaging first.
        towers: What was quantised of each tower.
    """

    graphs: Graphs
    parity: Parity
    spared: tuple[Block, ...]
    towers: dict[TowerName, Quantised]

    @property
    def mark(self) -> str:
        """What an identity says of it: `int8`, and a digest of what was spared, so that no two mixtures look alike."""
        spared = sorted([block.tower, block.name] for block in self.spared)
        return f"int8:{sha256_bytes(canonical_json(spared))[:12]}" if spared else "int8"

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "spared": [asdict(block) for block in self.spared],
            "towers": {tower: asdict(quantised) for tower, quantised in self.towers.items()},
        }


def quantise_within(
    graphs: Graphs, bounds: Sequence[Bound], candidates: Candidates, work: Path, reporter: Reporter
) -> Int8:
    """Quantise both towers, sparing the blocks that cost the most where all of them cost too much.

    Args:
        graphs: In fp32.
        bounds: What may be lost.
        candidates: Measures.
        work: A folder for the graphs that are tried.
        reporter: Is told what is done.

    Raises:
        VerificationError: Even with all blocks but one in fp32 the bounds do not hold.
    """
    workshop = _Workshop(graphs, candidates, work, reporter)

    def attempt(spared: Spared) -> Int8:
        tried = workshop.attempt(spared)
        told = "; ".join(bound.describe(tried.parity) for bound in bounds)
        reporter.info(f"int8 with {len(spared)} of {len(workshop.blocks)} blocks spared: {told}")
        return tried

    def passes(tried: Int8) -> bool:
        return all(bound.holds(tried.parity) for bound in bounds)

    found = search(len(workshop.blocks), attempt=attempt, passes=passes, worst_first=workshop.worst_first)
    if failed := [bound for bound in bounds if not bound.holds(found.tried.parity)]:
        raise VerificationError(
            "int8 costs more than is allowed; nothing was written",
            why="; ".join(bound.describe(found.tried.parity) for bound in failed)
            + f"; even with {len(found.spared)} of {len(workshop.blocks)} blocks spared",
            fix="allow more with --gate, or export with --dtype fp16, or without --quantize",
        )
    return replace(found.tried, spared=found.spared)


class _Workshop:
    """Makes and measures quantised graphs; each is made once."""

    def __init__(self, graphs: Graphs, candidates: Candidates, work: Path, reporter: Reporter) -> None:
        self._graphs = graphs
        self._candidates = candidates
        self._work = work
        self._reporter = reporter
        self._names = {tower: blocks_of(graphs[tower]) for tower in TOWERS}
        self._made: dict[Path, Quantised] = {}
        self.blocks = [Block(tower, name) for tower in TOWERS for name in self._names[tower]]

    def attempt(self, spared: Spared) -> Int8:
        """Everything in int8 but these."""
        graphs = {
            tower: self._quantised(tower, {block.name for block in spared if block.tower == tower}) for tower in TOWERS
        }
        towers = {tower: self._made[path] for tower, path in graphs.items()}
        return Int8(graphs, self._candidates.measure(graphs), tuple(spared), towers)

    def worst_first(self) -> list[Block]:
        """The blocks by the damage that each does alone."""
        tracked = track(self.blocks, self._reporter, "damage of each block", len(self.blocks))
        damage = {block: self._damage(block) for block in tracked}
        return sorted(self.blocks, key=damage.__getitem__, reverse=True)

    def _damage(self, block: Block) -> float:
        path = self._quantised(block.tower, set(self._names[block.tower]) - {block.name})
        damage = self._candidates.damage({**self._graphs, block.tower: path}, block.tower)
        shutil.rmtree(path.parent)
        del self._made[path]
        return damage

    def _quantised(self, tower: TowerName, keep: Set[str]) -> Path:
        """The tower with these blocks in fp32."""
        mark = "".join("0" if name in keep else "8" for name in self._names[tower])
        path = self._work / tower / mark / f"{tower}.onnx"
        if path not in self._made:
            path.parent.mkdir(parents=True)
            self._made[path] = quantise(self._graphs[tower], path, keep=keep)
        return path
