"""CLIP models through open_clip, as a backbone plugin that any third party could have written.

Importing this package is light; open_clip and torch are imported when a model is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mwactl.backbone.spec import BackboneSpec, WeightsRequest
from mwactl_clip import names

if TYPE_CHECKING:
    from mwactl.backbone.contract import Backbone
    from mwactl.progress import Reporter


class ClipPlugin:
    """The family `clip`."""

    family = names.FAMILY

    def specs(self) -> Sequence[BackboneSpec]:
        """The models with a short name."""
        return names.SHORT_NAMES

    def parse(self, name: str) -> BackboneSpec | None:
        """`clip:MODEL`, `clip:MODEL/TAG`, `clip:local-dir:FOLDER`."""
        return names.parse(name)

    def build(self, spec: BackboneSpec, weights: WeightsRequest) -> Backbone:
        """Build with weights, in fp32 on the CPU."""
        from mwactl_clip.build import build

        return build(spec, weights)

    def pull(self, spec: BackboneSpec, source: str | None, reporter: Reporter) -> Sequence[Path]:
        """Fetch a tag's weights and all else a build needs, into the caches that open_clip itself uses."""
        from mwactl_clip.build import build_without_weights
        from mwactl_clip.weights import pull_weights

        path = pull_weights(spec, source, reporter)
        # A text tower's configuration and tokenizer: in those caches they have no paths worth telling.
        build_without_weights(spec, download=True).load_tokenizer(download=True)
        return [path]

    def build_without_weights(self, spec: BackboneSpec) -> Backbone:
        """Build on the meta device."""
        from mwactl_clip.build import build_without_weights

        return build_without_weights(spec)


plugin = ClipPlugin()
