"""Where adapters are kept: content under its digest, versions, lineage, and results that come later. Knows no torch."""

from mwactl.registry.entry import BrokenEntry, Entry
from mwactl.registry.reference import Reference, parse_reference
from mwactl.registry.store import Registry

__all__ = ["BrokenEntry", "Entry", "Reference", "Registry", "parse_reference"]
