"""Where a checkpoint's files are: in a folder, or in the cache of the Hugging Face hub. Nothing is ever downloaded."""

from __future__ import annotations

import shlex
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HFValidationError

from ..lang.errors import CheckpointError, InvalidRequest
from .config import EngineConfig
from .tiny import MODEL_DIR

_GIVE = "the folder of a checkpoint (config.json and safetensors), or `tiny`"
_NO_DOWNLOADS = "stolon downloads nothing by itself"


def model_directory(config: EngineConfig) -> Path:
    """The folder of the model; `tiny` is the built-in one.

    Raises CheckpointError where there is none, InvalidRequest for a revision of what is not from the hub.
    """
    folder = _folder(config.model_path)
    if folder is None:
        return _cached(config.model_path, config.revision, config.download_dir, "config.json")
    _refuse_revision("revision", config.revision, config.model_path)
    return folder


def tokenizer_directory(config: EngineConfig) -> Path:
    """The folder of the tokenizer, which is the model's unless the settings say otherwise; raises the same."""
    if config.tokenizer_path is None and config.tokenizer_revision is None:
        return model_directory(config)
    name = config.model_path if config.tokenizer_path is None else config.tokenizer_path
    folder = _folder(name)
    if folder is None:
        return _cached(name, config.tokenizer_revision, config.download_dir, "tokenizer.json", "tokenizer_config.json")
    _refuse_revision("tokenizer_revision", config.tokenizer_revision, name)
    return folder


def served_names(config: EngineConfig) -> tuple[str, ...]:
    """The names that clients use: those that were chosen, the model's at the hub, or that of its folder."""
    if config.served_model_name:
        return config.served_model_name
    return (config.model_path if _folder(config.model_path) is None else Path(config.model_path).name,)


def path_as_given(config: EngineConfig) -> str | None:
    """A folder as the operator named it: so clients of SGLang and vLLM ask for its model. None if names were chosen."""
    return None if config.served_model_name or _folder(config.model_path) is None else config.model_path


def fetching(directory: Path) -> str:
    """What to do where a file is missing in `directory`, to be put behind that; empty unless the cache has it."""
    if directory.parent.name != "snapshots" or not directory.parents[1].name.startswith("models--"):
        return ""
    name = directory.parents[1].name.removeprefix("models--").replace("--", "/")
    return f"; was it fetched to the end? `{_download(name, directory.name, directory.parents[2])}` fetches the rest"


def _folder(path: str) -> Path | None:
    if path == "tiny":
        return MODEL_DIR
    directory = Path(path).expanduser()
    return directory if path and directory.is_dir() else None


def _cached(name: str, revision: str | None, download_dir: str | None, *files: str) -> Path:
    """The snapshot that has one of `files`."""
    cache = Path(HF_HUB_CACHE if download_dir is None else download_dir).expanduser()
    try:
        found = [try_to_load_from_cache(name, file, cache_dir=cache, revision=revision) for file in files]
    except HFValidationError:
        raise CheckpointError(
            f"{name!r} is no folder; give {_GIVE}, or a name of the hub that was fetched with `hf download`. "
            f"{_NO_DOWNLOADS}"
        ) from None
    for path in found:
        if isinstance(path, str):
            return Path(path).parent
    which = "" if revision is None else f" at revision {revision}"
    raise CheckpointError(
        f"{name!r} is no folder, and in {cache} there is no {' or '.join(files)} of {name}{which}; fetch it first: "
        f"`{_download(name, revision, cache)}`, or give {_GIVE}. {_NO_DOWNLOADS}"
    )


def _download(name: str, revision: str | None, cache: Path) -> str:
    words = ["hf", "download", name]
    if revision is not None:
        words += ["--revision", revision]
    if cache != Path(HF_HUB_CACHE).expanduser():
        words += ["--cache-dir", str(cache)]
    return shlex.join(words)


def _refuse_revision(name: str, revision: str | None, path: str) -> None:
    if revision is not None:
        message = f"{name} {revision!r} is for names of the hub, but {path!r} is here; leave it out"
        raise InvalidRequest(message, param=name)
