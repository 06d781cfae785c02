"""The MultiWay-Adapter of a whole backbone: which modules sit at which site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from mwactl.adapter.added import Adapter
from mwactl.adapter.modules import (
    AlignmentEnhancer,
    AuthorsAlignmentEnhancer,
    Bottleneck,
    KnowledgeExtractor,
)
from mwactl.backbone.contract import Backbone, Modality, Site
from mwactl.config.presets import CompleteMwaConfig, complete
from mwactl.config.recipe import MwaConfig
from mwactl.errors import IncompatibleError, UsageError

SHARED = "shared"


class SiteModules(nn.Module):
    """The modules of one site: a Knowledge Extractor a modality, and one or several Alignment Enhancers."""

    def __init__(self, site: Site, modalities: Sequence[Modality], config: CompleteMwaConfig) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.width = site.width
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


class MultiWayAdapter(Adapter):
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
        if self.config.share_enhancer == "towers" and self.config.alignment_enhancer:
            self._share_across_towers()

    def _share_across_towers(self) -> None:
        """Let blocks of the same depth of the two towers have the picture tower's Alignment Enhancer.

        Raises:
            IncompatibleError: The towers have no two such blocks, or blocks of different width.
        """
        depths: dict[str, dict[str, SiteModules]] = {}
        for name, modules in self.sites.items():
            assert isinstance(modules, SiteModules)
            if len(modules.modalities) == 1:
                depths.setdefault(name.rpartition("/")[2], {})[modules.modalities[0]] = modules
        for depth, towers in depths.items():
            widths = {modality: modules.width for modality, modules in towers.items()}
            if len(widths) < 2 or len(set(widths.values())) > 1:
                raise IncompatibleError(
                    "the two towers cannot share Alignment Enhancers",
                    why=f"at depth {depth} the widths are {widths}; a shared module needs blocks of equal width",
                    fix="method.mwa.share_enhancer=true",
                )
            if "image" in towers["image"].alignment_enhancer:
                towers["text"].alignment_enhancer["text"] = towers["image"].alignment_enhancer["image"]

    def attach_to(self, backbone: Backbone) -> None:
        """Let the backbone's sites compute with this adapter."""
        for site in backbone.sites(self.config.modalities):
            if site.name in self.sites:
                modules = self.sites[site.name]
                assert isinstance(modules, SiteModules)
                modules.attach_to(site)

    def detach_from(self, backbone: Backbone) -> None:
        """Let the backbone's sites compute as they did before."""
        for site in backbone.sites(self.config.modalities):
            site.detach()

    def adds_nothing(self, modality: Modality) -> bool:
        """Whether the adapter cannot change this modality's embeddings, as before training."""
        return all(branch.adds_nothing() for branch in self.branches(modality))

    def module_counts(self) -> dict[str, int]:
        """How many modules of each kind there are."""
        sites = [modules for modules in self.sites.values() if isinstance(modules, SiteModules)]
        extractors = [module for modules in sites for module in modules.knowledge_extractor.values()]
        enhancers = [module for modules in sites for module in modules.alignment_enhancer.values()]
        return {"knowledge_extractor": len(extractors), "alignment_enhancer": len(set(enhancers))}

    def description(self) -> str:
        """How many modules, where."""
        counts = self.module_counts()
        extractors, enhancers = counts["knowledge_extractor"], counts["alignment_enhancer"]
        return f"{extractors} Knowledge Extractors and {enhancers} Alignment Enhancers at {len(self.sites)} blocks"

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
