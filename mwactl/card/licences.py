"""The licences that the Hugging Face Hub knows by an identifier; any other is `other`, with a name and a link."""

from __future__ import annotations

_IDENTIFIERS = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
eupl-1.1 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2
llama3.3 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 pddl postgresql
unlicense wtfpl zlib
"""
HUB_LICENCES = frozenset(_IDENTIFIERS.split())
"""Without `unknown` and `other`: they say that nothing is said."""


def is_known(licence: str | None) -> bool:
    """Whether the Hub has an identifier for this licence."""
    return licence is not None and licence.lower() in HUB_LICENCES


def hub_licence(licence: str, link: str | None) -> dict[str, str]:
    """The keys of the front matter for a licence: its identifier, or `other` with its name and where to read it."""
    if is_known(licence):
        return {"license": licence.lower()}
    return {"license": "other", "license_name": licence} | ({"license_link": link} if link else {})
