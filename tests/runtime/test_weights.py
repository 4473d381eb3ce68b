"""A checkpoint that is wrong is refused with the file and the tensor; nothing but safetensors and JSON is read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stolon.lang.errors import CheckpointError, InvalidRequest, StolonError
from stolon.runtime.config import EngineConfig
from stolon.runtime.loading import find_model
from tests.runtime.families import Driver, make_family, make_runner, random_prompts

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    make_family("qwen2", folder)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to spoil, under a path with spaces and letters of several scripts."""
    copy = tmp_path / "a folder, ünï 模型"
    shutil.copytree(good, copy)
    return copy


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        make_runner(folder)
    return str(caught.value)


def test_fields_of_the_settings_stand_in_place_of_those_of_config_json(folder: Path) -> None:
    config = EngineConfig(model_path=str(folder), hf_overrides='{"max_position_embeddings": 99, "rope_theta": 5.0}')
    model = find_model(config).model
    assert (model.context_length, model.rope.theta) == (99, 5.0)
    for wrong in ("[]", "{a}", "3"):
        with pytest.raises(InvalidRequest, match="hf_overrides must be a JSON object"):
            find_model(EngineConfig(model_path=str(folder), hf_overrides=wrong))
    with pytest.raises(CheckpointError, match="hidden_size"):
        find_model(EngineConfig(model_path=str(folder), hf_overrides='{"hidden_size": -1}'))


def change_config(folder: Path, name: str = "config.json", **changes: Any) -> None:
    path = folder / name
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value != "remove"}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def split(folder: Path) -> dict[str, str]:
    """Makes two shards of the file, and returns the index's map."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    table: dict[str, str] = {}
    for shard, part in (("one.safetensors", names[::2]), ("two.safetensors", names[1::2])):
        save_file({name: tensors[name] for name in part}, folder / shard)
        table |= dict.fromkeys(part, shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": table}))
    return table


def test_a_good_checkpoint_loads_from_any_path(folder: Path) -> None:
    make_runner(folder)
    split(folder)
    make_runner(folder)


def with_header(header: bytes, *, length: int | None = None, body: bytes = b"\0" * 64) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + body


def described(**tensor: Any) -> bytes:
    return with_header(json.dumps({"model.norm.weight": {"dtype": "F32", **tensor}}).encode())


BAD_FILES: dict[str, Callable[[bytes], bytes]] = {
    "truncated by a byte": lambda data: data[:-1],
    "truncated by seven bytes": lambda data: data[:-7],
    "half of it": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "one byte too many": lambda data: data + b"\0",
    "header of 2**62 bytes": lambda _: with_header(b"{}", length=1 << 62),
    "header of no bytes": lambda _: with_header(b""),
    "header that is not JSON": lambda _: with_header(b"{what"),
    "offsets past the end": lambda _: described(shape=[64], data_offsets=[0, 256]),
    "shape unlike its bytes": lambda _: described(shape=[3], data_offsets=[0, 64]),
    "negative shape": lambda _: described(shape=[-16], data_offsets=[0, 64]),
    "shape that overflows": lambda _: described(shape=[1 << 62, 1 << 62], data_offsets=[0, 64]),
    "unknown dtype": lambda _: described(dtype="F31", shape=[16], data_offsets=[0, 64]),
    "Git LFS": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
    "web page": lambda _: b"<!DOCTYPE html><html><body>Sign in</body></html>",
    "pickle": lambda _: pickle.dumps({"model.norm.weight": [1.0]}),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_broken_file_is_named(folder: Path, kind: str) -> None:
    path = folder / WEIGHTS
    path.write_bytes(BAD_FILES[kind](path.read_bytes()))
    message = refusal(folder)
    assert str(path) in message
    if kind in ("Git LFS", "web page", "pickle", "empty"):
        assert kind in message


def test_a_file_without_tensors_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(with_header(b"{}", body=b""))
    assert "holds no tensors" in refusal(folder)


def test_missing_weights_and_other_formats_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert WEIGHTS in message
    assert "only safetensors" in message


def test_a_folder_or_a_loop_in_place_of_the_file_is_refused(folder: Path) -> None:
    path = folder / WEIGHTS
    path.unlink()
    path.mkdir()
    assert f"{path} is a folder" in refusal(folder)
    path.rmdir()
    path.symlink_to(path)
    assert str(path) in refusal(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(folder: Path) -> None:
    (folder / WEIGHTS).chmod(0)
    assert str(folder / WEIGHTS) in refusal(folder)


NORM = "model.layers.1.input_layernorm.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(NORM), [NORM, "missing"]),
        (lambda t: t.update({"model.extra.weight": torch.ones(2)}), [WEIGHTS, "model.extra.weight", "no place"]),
        (lambda t: t.update({QUERY: torch.ones(64, 63)}), [WEIGHTS, QUERY, "[64, 63]", "[64, 64]"]),
        (lambda t: t.update({QUERY: torch.ones(64, 64).int()}), [WEIGHTS, QUERY, "int32"]),
        (lambda t: t.update({QUERY: torch.ones(64, 64).to(torch.float8_e4m3fn)}), [WEIGHTS, QUERY, "float8"]),
        (lambda t: t[QUERY].view(-1)[77].fill_(torch.nan), [WEIGHTS, QUERY, "NaN"]),
        (lambda t: t[NORM][3].fill_(-torch.inf), [WEIGHTS, NORM, "NaN or infinity"]),
        (lambda t: t[QUERY].view(-1)[:2].copy_(torch.tensor([torch.inf, -torch.inf])), [WEIGHTS, QUERY]),
    ],
    ids=["missing", "extra", "shape", "integers", "float8", "nan", "infinity", "both infinities"],
)
def test_a_wrong_tensor_is_named(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], words: list[str]
) -> None:
    change_tensors(folder, change)
    message = refusal(folder)
    for word in words:
        assert word in message


def test_large_numbers_are_not_mistaken_for_infinity(folder: Path) -> None:
    change_tensors(folder, lambda t: t[QUERY].view(-1)[:2].fill_(3e38))
    make_runner(folder)


def test_tensors_that_the_config_determines_are_passed_over(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    make_runner(folder)


def test_a_tied_checkpoint_may_store_its_head(tmp_path: Path) -> None:
    make_family("qwen2-tied", tmp_path)
    before = Driver(make_runner(tmp_path))
    (prompt,) = random_prompts([9])
    expected = before.generate([before.sequence(prompt, room=8)], 8)
    change_tensors(tmp_path, lambda t: t.update({"lm_head.weight": torch.zeros(480, 64)}))
    after = Driver(make_runner(tmp_path))
    assert after.generate([after.sequence(prompt, room=8)], 8) == expected


@pytest.mark.parametrize("shard", ["../two.safetensors", "/etc/passwd", "two.bin", "sub/two.safetensors", 5, None])
def test_a_shard_outside_the_folder_is_refused(folder: Path, shard: object) -> None:
    table = split(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {**table, NORM: shard}}))
    message = refusal(folder)
    assert INDEX in message
    assert repr(shard) in message


def test_a_missing_shard_and_a_tensor_in_two_shards_are_named(folder: Path) -> None:
    table = split(folder)
    two = folder / "two.safetensors"
    shutil.copy(folder / "one.safetensors", folder / "three.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {**table, "x": "three.safetensors"}}))
    assert "is also in" in refusal(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": table}))
    two.unlink()
    assert f"{two} is missing" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000])
def test_an_index_that_makes_no_sense_is_named(folder: Path, text: str) -> None:
    split(folder)
    (folder / INDEX).write_text(text)
    assert INDEX in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1")])
def test_a_config_that_is_no_json_object_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")
    assert str(folder / "config.json") in refusal(folder)


def test_a_missing_config_is_named(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert str(folder / "config.json") in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, ["GPT2LMHeadModel", "LlamaForCausalLM"]),
        ({"architectures": "remove"}, ["architectures"]),
        ({"architectures": ["X"], "auto_map": {"AutoModelForCausalLM": "evil.Model"}}, ["X is not supported"]),
        ({"vocab_size": 999}, ["embed_tokens", "[480, 64]", "[999, 64]"]),
        ({"vocab_size": "many"}, ["vocab_size", "'many'"]),
        ({"hidden_size": "remove"}, ["hidden_size", "missing"]),
        (
            {"num_attention_heads": 5, "head_dim": None, "num_key_value_heads": 5},
            ["hidden_size", "num_attention_heads"],
        ),
        ({"num_key_value_heads": 3}, ["num_attention_heads (4)", "num_key_value_heads (3)"]),
        ({"num_hidden_layers": -1}, ["num_hidden_layers", "-1"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers", "1000000000"]),
        ({"num_hidden_layers": 3, "layer_types": None}, ["model.layers.2", "missing"]),
        ({"num_hidden_layers": 1, "layer_types": None}, ["model.layers.1", "no place"]),
        ({"hidden_act": "gelu"}, ["hidden_act", "gelu"]),
        ({"rms_norm_eps": 0}, ["rms_norm_eps"]),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, ["rope type 'yarn' is not supported"]),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, ["rope type 'linear' is not supported"]),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, ["factor"]),
        ({"layer_types": ["full_attention"]}, ["layer_types"]),
        ({"layer_types": ["full_attention", "chunked"]}, ["layer_types", "chunked"]),
        ({"sliding_window": -3}, ["sliding_window", "-3"]),
        ({"quantization_config": {"quant_method": "awq"}}, ["quantization_config"]),
        ({"tie_word_embeddings": 1}, ["tie_word_embeddings"]),
        ({"max_position_embeddings": 0}, ["max_position_embeddings"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_config_field_is_named(folder: Path, changes: dict[str, Any], words: list[str]) -> None:
    change_config(folder, **changes)
    message = refusal(folder)
    for word in words:
        assert word in message


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("eos", [480, -1, True, "x", [2, 480], 10**30])
def test_an_end_token_outside_the_vocabulary_is_named(folder: Path, name: str, eos: object) -> None:
    if name == "config.json":
        (folder / "generation_config.json").unlink()
    change_config(folder, name, eos_token_id=eos)
    message = refusal(folder)
    assert name in message
    assert "[0, 480)" in message


def test_end_tokens_come_from_the_generation_config_first(folder: Path) -> None:
    assert make_runner(folder).eos_token_ids == {2}
    change_config(folder, "generation_config.json", eos_token_id=[5, 7])
    assert make_runner(folder).eos_token_ids == {5, 7}
    change_config(folder, "generation_config.json", eos_token_id=None)
    change_config(folder, eos_token_id=9)
    assert make_runner(folder).eos_token_ids == {9}
    (folder / "generation_config.json").write_text("{")
    assert "generation_config.json" in refusal(folder)


@pytest.mark.parametrize("kind", ["default", "llama3"])
def test_older_spellings_of_the_config_give_the_same(tmp_path: Path, kind: str) -> None:
    make_family("llama" if kind == "llama3" else "qwen3", tmp_path)
    driver = Driver(make_runner(tmp_path))
    (prompt,) = random_prompts([60])
    expected = driver.generate([driver.sequence(prompt, room=8)], 8)
    rope = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    theta = rope.pop("rope_theta")
    scaling = None if kind == "default" else {**rope, "type": rope.pop("rope_type")}
    dtype = {"dtype": "remove", "torch_dtype": "float32"}
    change_config(
        tmp_path, rope_parameters="remove", rope_theta=theta, rope_scaling=scaling, layer_types="remove", **dtype
    )
    driver = Driver(make_runner(tmp_path))
    assert driver.generate([driver.sequence(prompt, room=8)], 8) == expected


def test_code_that_a_config_points_to_is_never_run(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('run!')")
    change_config(folder, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    make_runner(folder)
    change_config(folder, architectures=["EvilForCausalLM"])
    assert "EvilForCausalLM is not supported" in refusal(folder)
    assert "code of a checkpoint (its auto_map) is never run" in refusal(folder)


def test_a_refusal_is_an_error_of_ours() -> None:
    assert issubclass(CheckpointError, StolonError)
