"""Where CLIP weights come from: a file, open_clip's cache on this machine, or (only if asked) the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import open_clip
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from open_clip.pretrained import download_pretrained_from_url

from mwactl.backbone.spec import BackboneSpec
from mwactl.errors import MwactlError, NotFoundError
from mwactl_clip.names import LOCAL_DIR

if TYPE_CHECKING:
    from mwactl.progress import Reporter

_FOLDER_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


@contextmanager
def network(*, allowed: bool) -> Iterator[None]:
    """Keep Hugging Face's libraries off the network unless it is allowed (they read one switch at every call)."""
    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not allowed
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def find_weights(spec: BackboneSpec, source: str | None, *, download: bool, reporter: Reporter | None = None) -> Path:
    """The weights file of `source`: a path, a pretrained tag, or None for what lies in a model's folder.

    `reporter` hears of a download.

    Raises:
        NotFoundError: It is not on this machine; `fix` says how to get it.
    """
    if source is not None and Path(source).expanduser().is_file():
        return Path(source).expanduser()
    if spec.model.startswith(LOCAL_DIR):
        return _in_folder(Path(spec.model.removeprefix(LOCAL_DIR)), source)
    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    if source is None or source not in tags:
        raise NotFoundError(
            f"no weights named `{source}` for {spec.name}" if source else f"{spec.name} needs weights",
            why=f"neither a file nor one of its pretrained tags ({', '.join(tags[:6]) or 'it has none'})",
            fix=f"--weights FILE, --weights random, or --weights {tags[0]} --download"
            if tags
            else "--weights FILE, or --weights random (in a recipe: backbone.weights)",
        )
    return _pretrained(spec, source, download=download, reporter=reporter)


def pull_weights(spec: BackboneSpec, source: str | None, reporter: Reporter) -> Path:
    """Fetch the weights of a pretrained tag, or of the default one; those that are here stay as they are.

    Raises:
        NotFoundError: No such tag.
        MwactlError: The download failed.
    """
    tag = source or spec.default_weights
    tags = open_clip.list_pretrained_tags_by_model(spec.model)
    if tag is None or tag not in tags:
        raise NotFoundError(
            f"nothing is published as `{tag}` of {spec.name}" if tag else f"{spec.name} has no default weights",
            why=f"its pretrained tags are: {', '.join(tags) or 'none'}",
            fix=f"mwactl backbones pull {spec.name} --weights {tags[0]}" if tags else "mwactl backbones list",
        )
    with network(allowed=True):
        return _pretrained(spec, tag, download=True, reporter=reporter)


def _in_folder(folder: Path, source: str | None) -> Path:
    if source is None:
        for name in _FOLDER_FILES:
            if (folder / name).is_file():
                return folder / name
    raise NotFoundError(
        "no weights in this folder" if source is None else f"no weights file `{source}`",
        where=str(folder),
        why=f"none of {', '.join(_FOLDER_FILES)} is there" if source is None else None,
        fix="--weights FILE, or --weights random (in a recipe: backbone.weights)",
    )


def _pretrained(spec: BackboneSpec, tag: str, *, download: bool, reporter: Reporter | None) -> Path:
    """The file of a pretrained tag, from the caches that open_clip itself uses."""
    if download and reporter is not None:
        reporter.info(f"fetching `{tag}` of {spec.name}, unless it is here (licence: {spec.licence or 'see its page'})")
    facts = open_clip.get_pretrained_cfg(spec.model, tag)
    repository, _, filename = facts.get("hf_hub", "").rpartition("/")
    try:
        if repository:
            return _from_hub(repository, filename, download=download)
        cached = Path("~/.cache/clip").expanduser() / facts["url"].rpartition("/")[2]
        if cached.is_file() or download:
            return Path(download_pretrained_from_url(facts["url"]))
    except LocalEntryNotFoundError as error:
        if download:
            raise _unreachable(spec, tag, error) from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise _unreachable(spec, tag, error) from error
    raise NotFoundError(
        f"the weights `{tag}` of {spec.name} are not on this machine",
        why=f"--download fetches them (licence: {spec.licence or 'see the model page'})",
        fix="add --download, or --weights FILE, or --weights random (in a recipe: backbone.weights)",
    )


def _from_hub(repository: str, filename: str, *, download: bool) -> Path:
    """A repository's safetensors file, or the one its tag names."""
    candidates = [name for name in ("open_clip_model.safetensors", filename or "open_clip_pytorch_model.bin") if name]
    for name in candidates[:-1]:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name, local_files_only=not download))
        except (huggingface_hub.errors.EntryNotFoundError, LocalEntryNotFoundError):
            continue
    return Path(huggingface_hub.hf_hub_download(repository, candidates[-1], local_files_only=not download))


def _unreachable(spec: BackboneSpec, tag: str, error: Exception) -> MwactlError:
    return MwactlError(
        f"the weights `{tag}` of {spec.name} could not be downloaded",
        why=" ".join(str(error).split())[:200],
        fix="check the network and the disk and try again, or --weights FILE",
    )
