"""BEiT-3 as a backbone plugin. Importing this package is light; torch is imported when a model is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mwactl.backbone.spec import BackboneSpec, ForeignAdapter, ImportHints, WeightsRequest
from mwactl_beit3 import names

if TYPE_CHECKING:
    from mwactl.backbone.contract import Backbone
    from mwactl.progress import Reporter


class Beit3Plugin:
    """The family `beit3`."""

    family = names.FAMILY

    def specs(self) -> Sequence[BackboneSpec]:
        """The published sizes."""
        return names.SHORT_NAMES

    def parse(self, name: str) -> BackboneSpec | None:
        """`beit3:local-dir:FOLDER`, and names with an explicit `-224`."""
        return names.parse(name)

    def pull(self, spec: BackboneSpec, source: str | None, reporter: Reporter) -> Sequence[Path]:
        """Fetch the official weights and the tokenizer."""
        from mwactl.backbone.store import pull

        return pull(spec, source, reporter)

    def build(self, spec: BackboneSpec, weights: WeightsRequest) -> Backbone:
        """Build with weights, in fp32 on the CPU."""
        from mwactl_beit3.build import build

        return build(spec, weights)

    def build_without_weights(self, spec: BackboneSpec) -> Backbone:
        """Build on the meta device."""
        from mwactl_beit3.build import build_without_weights

        return build_without_weights(spec)

    def read_foreign(self, file: Path, spec: BackboneSpec | None, hints: ImportHints) -> ForeignAdapter | None:
        """Read a checkpoint of the MultiWay-Adapter authors' program."""
        from mwactl_beit3.authors import read

        return read(file, spec, hints)


plugin = Beit3Plugin()
