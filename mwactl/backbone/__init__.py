"""The contract of a backbone, the plugins that fulfil it, and the fingerprint of its weights.

This package's own import is light: `contract` and `fingerprint` import torch, `spec` and `discovery` do not.
"""

from mwactl.backbone.discovery import all_specs, find_spec, plugins
from mwactl.backbone.spec import BackbonePlugin, BackboneSpec, WeightsRequest, WeightsUsed

__all__ = ["BackbonePlugin", "BackboneSpec", "WeightsRequest", "WeightsUsed", "all_specs", "find_spec", "plugins"]
