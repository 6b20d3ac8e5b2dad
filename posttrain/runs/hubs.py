"""Hubs of models and data sets: what a name means there, and its files."""

from __future__ import annotations

import os
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from posttrain.config.download import DownloadConfig
from posttrain.errors import CheckpointError, PosttrainError
from posttrain.runtime import require_extra


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub describes it."""

    path: str
    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None
    """git's own digest, of small files for which a hub tells no sha256."""


@dataclass(frozen=True)
class Listing:
    """What a name means on a hub at this moment."""

    commit: str
    files: list[RemoteFile]


class Hub(Protocol):
    """Where to download from."""

    def check_reachable(self, config: DownloadConfig) -> None:
        """Say within seconds where there is no network."""

    def list_files(self, config: DownloadConfig) -> Listing:
        """Look up a name."""

    def fetch(
        self, config: DownloadConfig, commit: str, names: Sequence[str], folder: Path
    ) -> None:
        """Download files into a folder; those that an earlier attempt has brought are kept."""


class HuggingFaceHub:
    """Hugging Face, or a mirror of it at ``$HF_ENDPOINT``."""

    def check_reachable(self, config: DownloadConfig) -> None:
        """Connect once; the client's own retries would take half a minute."""
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            raise build_offline_error(config, "HF_HUB_OFFLINE is set")
        _check_endpoint(config, constants.ENDPOINT)

    def list_files(self, config: DownloadConfig) -> Listing:
        """Look up commit and files."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        api, kind = HfApi(), config.kind
        commit = api.repo_info(config.name, repo_type=kind, revision=config.revision).sha
        tree = api.list_repo_tree(config.name, recursive=True, revision=commit, repo_type=kind)
        files = [
            RemoteFile(f.path, f.size, f.lfs.sha256 if f.lfs else None, f.blob_id)
            for f in tree
            if isinstance(f, RepoFile)
        ]
        return Listing(str(commit), files)

    def fetch(
        self, config: DownloadConfig, commit: str, names: Sequence[str], folder: Path
    ) -> None:
        """Download files side by side; a broken connection is taken up again."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        snapshot_download(
            config.name,
            repo_type=config.kind,
            revision=commit,
            local_dir=folder,
            allow_patterns=[_escape(name) for name in names],
        )


def _escape(name: str) -> str:
    """Make a name a pattern that fits only itself."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


class ModelScopeHub:
    """ModelScope, through its own package."""

    def check_reachable(self, config: DownloadConfig) -> None:
        """Look for the package, then for the network."""
        require_extra("modelscope", "modelscope")
        domain = os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
        _check_endpoint(config, domain if "://" in domain else f"https://{domain}")

    def list_files(self, config: DownloadConfig) -> Listing:
        """Look up the files; ModelScope names no commit here, so the revision stands for it."""
        api = require_extra("modelscope_hub", "modelscope").HubApi()
        revision = config.revision or "master"
        found = api.list_repo_files(config.name, config.kind, revision=revision)
        files = [RemoteFile(f.path, f.size, f.sha256) for f in found if f.type != "tree"]
        return Listing(revision, files)

    def fetch(
        self, config: DownloadConfig, commit: str, names: Sequence[str], folder: Path
    ) -> None:
        """Download files side by side."""
        place = "modelscope.hub.snapshot_download"
        client = require_extra(place, "modelscope")
        functions: dict[str, Any] = {
            "model": client.snapshot_download,
            "dataset": client.dataset_snapshot_download,
        }
        functions[config.kind](
            config.name,
            revision=commit,
            local_dir=str(folder),
            allow_patterns=[_escape(name) for name in names],
        )


HUBS: dict[str, Hub] = {"huggingface": HuggingFaceHub(), "modelscope": ModelScopeHub()}


def _check_endpoint(config: DownloadConfig, endpoint: str) -> None:
    place = urllib.parse.urlsplit(endpoint)
    proxies = urllib.request.getproxies()
    if place.scheme in proxies and not urllib.request.proxy_bypass(place.hostname or ""):
        return  # what a proxy reaches, only it knows
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        socket.create_connection((place.hostname or "", port), timeout=5).close()
    except OSError:
        raise build_offline_error(config, f"{endpoint} cannot be reached from here") from None


def build_offline_error(config: DownloadConfig, reason: str) -> PosttrainError:
    """Say what to type on a machine with a network, and how to bring the folder here."""
    folder = config.out.name
    words = [f"posttrain download {config.name} out={folder}"]
    chosen = {"hub": "huggingface", "kind": "model", "revision": None}
    for key, default in chosen.items():
        if (value := getattr(config, key)) != default:
            words.append(f"{key}={value}")
    return CheckpointError(
        f"{config.name}: {reason}",
        hint=f"on a machine with a network: {' '.join(words)}  then: "
        f"rsync -a {folder}/ USER@THIS_MACHINE:{config.out}/",
    )


def explain_lookup(config: DownloadConfig, error: Exception) -> PosttrainError:
    """One line for a name that a hub does not give."""
    kind = type(error).__name__
    what = "data set" if config.kind == "dataset" else "model"
    if kind == "RevisionNotFoundError":
        return CheckpointError(
            f"{config.name}: has no revision `{config.revision}`", hint="give a branch, tag, commit"
        )
    if kind == "GatedRepoError":
        return CheckpointError(
            f"{config.name}: its owner asks for consent", hint="give it on its page, set HF_TOKEN"
        )
    if kind == "RepositoryNotFoundError":
        return CheckpointError(
            f"{config.name}: {config.hub} has no such {what}, or it is private",
            hint="check the name and kind=model|dataset; for a private one set HF_TOKEN",
        )
    reason = (str(error).strip() or kind).splitlines()[0]
    if "Connect" in kind or "Timeout" in kind or "Proxy" in kind:
        return build_offline_error(config, f"{config.hub} cannot be reached from here ({reason})")
    return CheckpointError(
        f"{config.name}: {config.hub} does not answer: {reason}", hint="try again"
    )
