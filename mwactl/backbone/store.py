"""Official files on this machine: found by tag, fetched when asked, and the same bytes ever after. No torch.

A file lies in `weights_path()` under its published name, with its digest beside it (`sha256sum -c` reads it). The
digest is the published one where that is known, else that of the bytes that came first.
"""

from __future__ import annotations

import os
from pathlib import Path

from mwactl.backbone.digests import known_sha256, record_path, record_sha256, recorded_sha256
from mwactl.backbone.download import discard, fetch
from mwactl.backbone.local_folder import folder_of, weights_in
from mwactl.backbone.spec import BackboneSpec, OfficialFile
from mwactl.errors import NotFoundError, ResourceError, VerificationError
from mwactl.files import naming_write_errors, sha256_file, sync_directory
from mwactl.home import weights_path
from mwactl.progress import Reporter, Silent


def find_weights(
    spec: BackboneSpec, source: str | None, *, download: bool, reporter: Reporter | None = None
) -> tuple[Path, str]:
    """The weights file of `source`, and what `WeightsUsed.source` should say: `file`, or the tag.

    Args:
        spec: The backbone.
        source: An existing file, a tag of `spec.files`, or None for the default weights: a folder's own, where the
            backbone is one.
        download: Whether a tag's file may be fetched.
        reporter: Hears of the download.

    Raises:
        NotFoundError: It is not on this machine; `fix` says how to get it.
        VerificationError: Its bytes are not those that were published, or recorded before.
    """
    if source is not None and (path := Path(source).expanduser()).is_file():
        return path, "file"
    if source is None and (folder := folder_of(spec)) is not None:
        return weights_in(folder), "file"
    options = "--weights FILE, or --weights random"
    choice = f", or --weights {spec.files[0].tag}" if spec.files else ""
    file = _tagged(spec, source, but="neither a file nor", fix=f"{options}{choice} (in a recipe: backbone.weights)")
    return _found_or_fetched(spec, file, download=download, reporter=reporter), file.tag


def find_tokenizer(
    spec: BackboneSpec, *, beside: Path | None, download: bool, reporter: Reporter | None = None
) -> Path:
    """The tokenizer's file: in the backbone's own folder or beside the weights file, or among the official files.

    Args:
        spec: The backbone, whose `tokenizer` must be given.
        beside: The weights file, if there is one.
        download: Whether it may be fetched.
        reporter: Hears of the download.

    Raises:
        NotFoundError: It is not on this machine; `fix` says how to get it.
        VerificationError: Its bytes are not those that were published, or recorded before.
    """
    if spec.tokenizer is None:
        raise ValueError(f"{spec.name} names no tokenizer file")
    folder = folder_of(spec) or (beside.parent if beside is not None else weights_path())
    path = folder / spec.tokenizer.filename
    if folder.resolve() != weights_path().resolve() and path.is_file():
        digest = known_sha256(path)
        if digest != (spec.tokenizer.sha256 or digest):
            raise _changed(path, digest, spec.tokenizer, fix=f"rm {path} && {_pull_command(spec, spec.tokenizer)}")
        return path
    return _found_or_fetched(spec, spec.tokenizer, download=download, reporter=reporter)


def pull(spec: BackboneSpec, source: str | None, reporter: Reporter) -> list[Path]:
    """Fetch what is not here yet of a tag's weights (None: the default ones) and the tokenizer; give their paths.

    The tokenizer has a tag too: with it, nothing but the tokenizer is fetched.

    Raises:
        NotFoundError: No such tag, or the server has no such file.
        VerificationError: A file's bytes are not those that were published, or recorded before.
        ResourceError: The disk is full, or another process is fetching the same file.
        MwactlError: The download failed.
    """
    if not spec.files:
        raise NotFoundError(
            f"nothing is published of {spec.name}",
            why="it is a folder of your own" if folder_of(spec) else "its plugin names no files",
            fix="mwactl backbones list",
        )
    files = [spec.tokenizer] if spec.tokenizer else []
    if not files or source != files[0].tag:
        first = f"mwactl backbones pull {spec.name} --weights {spec.files[0].tag}"
        files.insert(0, _tagged(spec, source, but="not", fix=first))
    return [_found_or_fetched(spec, file, download=True, reporter=reporter) for file in files]


def is_here(spec: BackboneSpec, file: OfficialFile) -> bool:
    """Whether one of a backbone's files is on this machine (its bytes are checked when it is used)."""
    folder = folder_of(spec)
    return _path(file).is_file() or (folder is not None and (folder / file.filename).is_file())


def _path(file: OfficialFile) -> Path:
    return weights_path() / file.filename


def _tagged(spec: BackboneSpec, source: str | None, *, but: str, fix: str) -> OfficialFile:
    """The weights of a tag. `but`: the beginning of why it is not found."""
    tags = {file.tag: file for file in spec.files}
    tag = spec.default_weights if source is None else source
    if tag is not None and tag in tags:
        return tags[tag]
    raise NotFoundError(
        f"{spec.name} needs weights" if tag is None else f"no weights named `{tag}` for {spec.name}",
        why=f"{but} one of its tags ({', '.join(tags) or 'it has none'})",
        fix=fix,
    )


def _found_or_fetched(spec: BackboneSpec, file: OfficialFile, *, download: bool, reporter: Reporter | None) -> Path:
    path = _path(file)
    if not path.is_file():
        if not download or not file.url:
            raise _not_here(spec, file, path)
        _fetch(file, path, reporter or Silent())
    digest, recorded = known_sha256(path), recorded_sha256(path)
    if digest != (file.sha256 or recorded or digest):
        raise _changed(path, digest, file, fix=f"rm {path} && {_pull_command(spec, file)}")
    if digest != recorded:
        record_sha256(path, digest)
    return path


def _fetch(file: OfficialFile, path: Path, reporter: Reporter) -> None:
    """Bring a file here; under its name it is complete, and the one that is expected."""
    from filelock import FileLock, Timeout  # in here: listing backbones should be quick

    with naming_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
                if path.is_file():  # another process has just fetched it
                    return
                reporter.info(f"fetching {file.url}")
                part = fetch(file.url, path, reporter)
                digest = sha256_file(part)
                if digest != (file.sha256 or recorded_sha256(path) or digest):
                    discard(part)
                    raise _changed(path, digest, file, fix="try again; if it stays so, ask whoever publishes the file")
                _put_in_place(part, path)
        except Timeout as error:
            raise ResourceError(
                "another process is fetching this file", where=str(path), fix="wait for it, or stop it, and try again"
            ) from error


def _put_in_place(part: Path, path: Path) -> None:
    with part.open("rb+") as whole:
        os.fsync(whole.fileno())
    part.replace(path)
    discard(part)  # what was noted of it
    sync_directory(path.parent)


def _not_here(spec: BackboneSpec, file: OfficialFile, path: Path) -> NotFoundError:
    if not file.url:
        path = (folder_of(spec) or path.parent) / file.filename
        why, fix = "it is published nowhere", f"put {file.filename} into {path.parent}"
    else:
        why, fetch_it = f"it is published at {file.url}", _pull_command(spec, file)
        fix = f"--download, or {fetch_it}" if file == spec.tokenizer else f"{fetch_it}, or --weights FILE"
    return NotFoundError(f"`{file.tag}` of {spec.name} is not on this machine", where=str(path), why=why, fix=fix)


def _changed(path: Path, digest: str, file: OfficialFile, *, fix: str) -> VerificationError:
    if file.sha256 is None:
        expected = f"{record_path(path).name} says {recorded_sha256(path)}; delete that too if the change is meant"
    else:
        expected = f"the published one has {file.sha256}"
    return VerificationError(
        "this is not the file it should be", where=str(path), why=f"sha256 {digest}, but {expected}", fix=fix
    )


def _pull_command(spec: BackboneSpec, file: OfficialFile) -> str:
    choice = "" if file.tag == spec.default_weights else f" --weights {file.tag}"
    return f"mwactl backbones pull {spec.name}{choice}"
