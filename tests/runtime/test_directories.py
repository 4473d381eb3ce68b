"""A model is a folder, or a name of the hub that the local cache has; nothing is ever fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stolon.lang.errors import CheckpointError, InvalidRequest
from stolon.runtime.config import EngineConfig
from stolon.runtime.directories import model_directory, path_as_given, served_names, tokenizer_directory
from stolon.runtime.embed import EmbeddingEngine
from stolon.runtime.engine import Engine
from stolon.runtime.tiny import MODEL_DIR
from stolon.runtime.tokenizer import Tokenizer
from tests.runtime.embedders import make_embedder
from tests.runtime.hub_cache import put_in_cache

NAME = "someone/A.Model-1"
OLD, NEW = "0" * 40, "f" * 40


@pytest.fixture
def cache(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """main is NEW, and the tag v1 is OLD."""
    cache = tmp_path / "the cache"
    put_in_cache(cache, NAME, tiny_checkpoint, OLD, "v1")
    put_in_cache(cache, NAME, tiny_checkpoint, NEW, "main")
    return cache


def config(cache: Path, **settings: str) -> EngineConfig:
    return EngineConfig(**{"model_path": NAME, "download_dir": str(cache), **settings})  # pyright: ignore[reportArgumentType]


def test_folders_and_the_built_in_model_are_found(tmp_path: Path) -> None:
    assert model_directory(EngineConfig(model_path="tiny")) == MODEL_DIR
    assert model_directory(EngineConfig(model_path=str(tmp_path))) == tmp_path
    assert tokenizer_directory(EngineConfig(model_path="tiny", tokenizer_path=str(tmp_path))) == tmp_path
    assert tokenizer_directory(EngineConfig(model_path="tiny")) == MODEL_DIR


@pytest.mark.parametrize("path", ["/nowhere/at/all", "./here", "a/b/c", "", "a--b", "../up"])
def test_what_is_neither_a_folder_nor_a_name_is_refused_with_what_to_give(path: str) -> None:
    with pytest.raises(CheckpointError, match="is no folder; give the folder of a checkpoint"):
        model_directory(EngineConfig(model_path=path))


@pytest.mark.parametrize(
    ("revision", "commit"), [(None, NEW), ("main", NEW), ("v1", OLD), (OLD, OLD), (NEW, NEW)], ids=str
)
def test_a_name_is_looked_for_in_the_cache(cache: Path, revision: str | None, commit: str) -> None:
    chosen = {} if revision is None else {"revision": revision}
    snapshot = cache / "models--someone--A.Model-1" / "snapshots" / commit
    assert model_directory(config(cache, **chosen)) == snapshot
    assert tokenizer_directory(config(cache, **chosen)) == snapshot


def test_a_tokenizer_may_be_of_another_name_or_revision(cache: Path, tiny_checkpoint: Path) -> None:
    other = put_in_cache(cache, "other/one", tiny_checkpoint, OLD, "main")
    (other / "config.json").unlink()  # a tokenizer needs none
    assert tokenizer_directory(config(cache, tokenizer_path="other/one")) == other
    assert tokenizer_directory(config(cache, tokenizer_revision="v1")).name == OLD
    assert model_directory(config(cache, tokenizer_revision="v1")).name == NEW


@pytest.mark.parametrize("revision", ["nonesuch", "v1/../../../x", "a" * 40, "../refs"])
def test_what_the_cache_lacks_is_refused_with_how_to_fetch_it(cache: Path, revision: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        model_directory(config(cache, revision=revision))
    says = str(caught.value)
    assert f"in {cache} there is no config.json of {NAME} at revision {revision}" in says
    assert f"`hf download {NAME} --revision {revision} --cache-dir '{cache}'`" in says
    assert "downloads nothing" in says
    with pytest.raises(CheckpointError, match="`hf download no/such`, or give the folder of a checkpoint"):
        model_directory(EngineConfig(model_path="no/such"))


def test_a_revision_of_what_is_not_from_the_hub_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="revision 'v1' is for names of the hub, but 'tiny' is here") as caught:
        model_directory(EngineConfig(model_path="tiny", revision="v1"))
    assert caught.value.param == "revision"
    with pytest.raises(InvalidRequest) as caught:
        tokenizer_directory(EngineConfig(model_path="tiny", tokenizer_path=str(tmp_path), tokenizer_revision="v1"))
    assert caught.value.param == "tokenizer_revision"


def test_clients_use_the_name_at_the_hub_or_that_of_the_folder(cache: Path, tmp_path: Path) -> None:
    assert served_names(config(cache)) == (NAME,)
    assert served_names(EngineConfig(model_path="tiny")) == ("tiny",)
    assert served_names(EngineConfig(model_path=str(tmp_path / "the cache"))) == ("the cache",)
    assert served_names(EngineConfig(model_path=NAME, served_model_name=("mine", "a/b"))) == ("mine", "a/b")
    folder = str(tmp_path)
    assert path_as_given(EngineConfig(model_path=folder)) == folder
    assert path_as_given(EngineConfig(model_path=folder, served_model_name=("mine",))) is None
    assert path_as_given(config(cache)) is None


def without(snapshot: Path, name: str) -> None:
    (snapshot / name).unlink()


def without_blob(snapshot: Path, name: str) -> None:
    (snapshot / name).resolve().unlink()


@pytest.mark.parametrize("spoil", [without, without_blob])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "two.safetensors"])
def test_a_download_that_was_cut_short_is_refused_with_how_to_end_it(
    cache: Path, spoil: Callable[[Path, str], None], name: str
) -> None:
    snapshot = cache / "models--someone--A.Model-1" / "snapshots" / NEW
    if name == "two.safetensors":
        index = {"weight_map": {"lm_head.weight": "model.safetensors", "model.norm.weight": name}}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        spoil(snapshot, name)
    with pytest.raises(CheckpointError) as caught:
        Engine(config(cache))
    assert name in str(caught.value)
    assert f"`hf download {NAME} --revision {NEW} --cache-dir '{cache}'` fetches the rest" in str(caught.value)


def test_a_missing_file_of_a_folder_says_nothing_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.load(tmp_path)
    assert "hf download" not in str(caught.value)


def test_embedding_models_come_from_the_cache(tmp_path: Path) -> None:
    make_embedder("bert-mean", tmp_path / "made")
    put_in_cache(tmp_path / "cache", "bert", tmp_path / "made", NEW, "main")
    engine = EmbeddingEngine(EngineConfig(model_path="bert", download_dir=str(tmp_path / "cache")))
    try:
        assert engine.model_name == "bert"
    finally:
        engine.shutdown()


# Every connection and every look-up of an address is seen by the interpreter before it is made.
NO_NETWORK = """
import sys
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        print("network:", event, args, flush=True)
        raise SystemExit(3)
sys.addaudithook(hook)
from stolon import Runtime, assistant, function, gen, user
@function
def ask(s):
    s += user("Hello") + assistant(gen("answer", max_tokens=4, ignore_eos=True))
with Runtime(sys.argv[1], threads=1, kv_tokens=1024) as backend:
    print(backend.info()["model"], len(ask.run(backend=backend)["answer"]) > 0)
"""


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_loading_from_the_usual_cache_opens_no_connection(tmp_path: Path, tiny_checkpoint: Path, variable: str) -> None:
    home = tmp_path / "home"
    put_in_cache(home / "hub" if variable == "HF_HOME" else home, NAME, tiny_checkpoint, NEW, "main")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    found = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, NAME],
        cwd=Path(__file__).parents[2],
        env={**environment, variable: str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (found.stdout, found.returncode) == (f"{NAME} True\n", 0), found.stdout + found.stderr


def test_a_name_that_is_not_there_opens_no_connection_either(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, "no/such"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 1
    assert found.stdout == ""
    assert "`hf download no/such`" in found.stderr
