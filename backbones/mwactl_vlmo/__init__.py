"""VLMo as a backbone plugin. Importing this package is light; torch is imported when a model is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mwactl.backbone.spec import BackboneSpec, WeightsRequest
from mwactl_vlmo import names

if TYPE_CHECKING:
    from mwactl.backbone.contract import Backbone
    from mwactl.progress import Reporter


class VlmoPlugin:
    """The family `vlmo`."""

    family = names.FAMILY

    def specs(self) -> Sequence[BackboneSpec]:
        """The published sizes."""
        return names.SHORT_NAMES

    def parse(self, name: str) -> BackboneSpec | None:
        """`vlmo:local-dir:FOLDER`, and names with an explicit `-224`."""
        return names.parse(name)

    def pull(self, spec: BackboneSpec, source: str | None, reporter: Reporter) -> Sequence[Path]:
        """Fetch the official weights (the vocabulary is in this package)."""
        from mwactl.backbone.store import pull

        return pull(spec, source, reporter)

    def build(self, spec: BackboneSpec, weights: WeightsRequest) -> Backbone:
        """Build with weights, in fp32 on the CPU."""
        from mwactl_vlmo.build import build

        return build(spec, weights)

    def build_without_weights(self, spec: BackboneSpec) -> Backbone:
        """Build on the meta device."""
        from mwactl_vlmo.build import build_without_weights

        return build_without_weights(spec)


plugin = VlmoPlugin()
