"""The MultiWay-Adapter of a whole backbone: which modules sit at which site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from mwactl.adapter.modules import (
    AlignmentEnhancer,
    AuthorsAlignmentEnhancer,
    Bottleneck,
    KnowledgeExtractor,
)
from mwactl.backbone.contract import Modality, Site
from mwactl.config.presets import CompleteMwaConfig, complete
from mwactl.config.recipe import MwaConfig
from mwactl.errors import UsageError

SHARED = "shared"


class SiteModules(nn.Module):
    """The modules of one site: a Knowledge Extractor a modality, and one or several Alignment Enhancers."""

    def __init__(self, site: Site, modalities: Sequence[Modality], config: CompleteMwaConfig) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.knowledge_extractor = nn.ModuleDict()
        self.alignment_enhancer = nn.ModuleDict()
        if config.knowledge_extractor:
            for modality in modalities:
                self.knowledge_extractor[modality] = KnowledgeExtractor(
                    site.width, config.knowledge_extractor, scale=config.alpha, eps=site.eps, config=config
                )
        if config.alignment_enhancer:
            shared = config.share_enhancer and len(modalities) > 1
            for owner in [SHARED] if shared else modalities:
                self.alignment_enhancer[owner] = _enhancer(site, config)

    def attach_to(self, site: Site) -> None:
        """Let the site compute with these modules."""
        site.attach(
            {modality: self.knowledge_extractor[modality] for modality in self.modalities if self.knowledge_extractor},
            {modality: self._enhancer_of(modality) for modality in self.modalities if self.alignment_enhancer},
        )

    def _enhancer_of(self, modality: Modality) -> nn.Module:
        return self.alignment_enhancer[SHARED if SHARED in self.alignment_enhancer else modality]


class MultiWayAdapter(nn.Module):
    """All modules of one adapter; owns every parameter that MWA adds.

    Parameter names read `sites.image/0.knowledge_extractor.image.down.weight`: they depend on the sites' stable
    names alone, never on how a backbone nests its modules.
    """

    def __init__(self, sites: Sequence[Site], config: MwaConfig) -> None:
        super().__init__()
        self.config = complete(config)
        self.sites = nn.ModuleDict()
        for site in selected_sites(sites, config):
            modalities = [modality for modality in site.modalities if modality in config.modalities]
            self.sites[site.name] = SiteModules(site, modalities, self.config)

    def attach_to(self, sites: Sequence[Site]) -> None:
        """Let the backbone's sites compute with this adapter."""
        for site in sites:
            if site.name in self.sites:
                modules = self.sites[site.name]
                assert isinstance(modules, SiteModules)
                modules.attach_to(site)

    def adds_nothing(self, modality: Modality) -> bool:
        """Whether the adapter cannot change this modality's embeddings, as before training."""
        return all(branch.adds_nothing() for branch in self.branches(modality))

    def module_counts(self) -> dict[str, int]:
        """How many modules of each kind there are."""
        sites = [modules for modules in self.sites.values() if isinstance(modules, SiteModules)]
        return {
            "knowledge_extractor": sum(len(modules.knowledge_extractor) for modules in sites),
            "alignment_enhancer": sum(len(modules.alignment_enhancer) for modules in sites),
        }

    def branches(self, modality: Modality) -> Iterator[Bottleneck | AuthorsAlignmentEnhancer]:
        """The modules that this modality's tokens pass through."""
        for modules in self.sites.values():
            assert isinstance(modules, SiteModules)
            for owners in (modules.knowledge_extractor, modules.alignment_enhancer):
                for owner, branch in owners.items():
                    if owner in (modality, SHARED) and modality in modules.modalities:
                        assert isinstance(branch, Bottleneck | AuthorsAlignmentEnhancer)
                        yield branch


def selected_sites(sites: Sequence[Site], config: MwaConfig) -> list[Site]:
    """The sites that `layers` and `modalities` choose.

    Raises:
        UsageError: More layers are asked for than a tower has.
    """
    chosen = [site for site in sites if set(site.modalities) & set(config.modalities)]
    if config.layers == "all":
        return chosen
    end, count_text = config.layers.split()
    count = int(count_text)
    kept = []
    for site in chosen:
        depth_of_tower = 1 + max(other.depth for other in chosen if other.modalities == site.modalities)
        if count > depth_of_tower:
            raise UsageError(
                f"`layers: {config.layers}` asks for more blocks than the {'/'.join(site.modalities)} tower has",
                why=f"it has {depth_of_tower}",
                fix=f"method.mwa.layers='{end} {depth_of_tower}'",
            )
        if site.depth < count if end == "first" else site.depth >= depth_of_tower - count:
            kept.append(site)
    return kept


def _enhancer(site: Site, config: CompleteMwaConfig) -> nn.Module:
    if config.preset == "authors-code":
        return AuthorsAlignmentEnhancer(site.width)
    return AlignmentEnhancer(site.width, config.alignment_enhancer, scale=config.beta, eps=site.eps, config=config)
