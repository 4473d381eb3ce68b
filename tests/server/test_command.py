"""Flags: what is wrong is said in one line, before anything heavy is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stolon.runtime.config import EngineConfig, SchedulerConfig
from stolon.runtime.server.flags import _GROUPS, parse
from stolon.runtime.server.flags_foreign import FOREIGN
from stolon.runtime.server.logs import Ascii
from stolon.runtime.server.main import main
from stolon.runtime.server.settings import ServerConfig
from stolon.runtime.server.sharing import Sharing

MODEL = ["--model-path", "somewhere"]

DATA = Path(__file__).parent / "data"
CERTIFICATE, KEY = str(DATA / "certificate.pem"), str(DATA / "key.pem")

BAD = [
    (["--port", "0"], 2, "--port"),
    (["--port", "70000"], 2, "at most 65535"),
    (["--port", "abc"], 2, "whole number"),
    (["--host", "bad.host.invalid"], 2, "--host"),
    (["--host", "192.0.2.1", "--api-key", "k"], 2, "not an address of this machine"),
    (["--host", "0.0.0.0"], 2, "--insecure-no-auth"),
    (["--host", "::"], 2, "--insecure-no-auth"),
    (["--kv-tokens", "-1"], 2, "--kv-tokens"),
    (["--kv-tokens", "0"], 2, "at least 1"),
    (["--chunked-prefill-size", "0"], 2, "at least 1 and at most 1048576, or -1, got 0"),
    (["--chunked-prefill-size", "-2"], 2, "or -1, got -2"),
    (["--max-running-requests", "0"], 2, "at least 1"),
    (["--dtype", "int3"], 2, "float32"),
    (["--memory-fraction", "nan"], 2, "greater than 0 and at most 1"),
    (["--memory-fraction", "0"], 2, "greater than 0"),
    (["--max-queued-requests", "0"], 2, "at least 1"),
    (["--random-seed", "1.5"], 2, "whole number"),
    (["--context-length", "0"], 2, "--context-length"),
    (["--drain-seconds", "-1"], 2, "--drain-seconds"),
    (["--wibble"], 2, "unknown flag --wibble"),
    (["--max-running", "4"], 2, "did you mean --max-running-requests?"),
    (["--api-key", ""], 2, "1–256 printable ASCII"),
    (["--api-key", "a\nb"], 2, "1–256 printable ASCII"),
    (["--api-key", "schlüssel"], 2, "1–256 printable ASCII"),
    (["--api-key", "k" * 257], 2, "1–256 printable ASCII"),
    (["--api-key", " k"], 2, "without spaces"),
    (["--api-key", "k", "--api-key-file", "f"], 2, "one of"),
    (["--api-key", "k", "ü"], 2, "1–256 printable ASCII"),
    (["--api-key", "k", "l", "--admin-api-key", "l"], 2, "must not be the key of all clients"),
    (["--api-key-file", "/nowhere/at/all"], 2, "--api-key-file cannot be read"),
    (["--log-level", "loud"], 2, "warning"),
    (["--max-model-len", "32x"], 2, "whole number"),
    (["--max-model-len", "1.5K"], 2, "whole number"),
    (["--max-model-len", "1.0005k"], 2, "whole number"),
    (["--max-model-len", "nank"], 2, "whole number"),
    (["--max-model-len", "-2"], 2, "at least 1"),
    (["--kv-bytes", "auto"], 2, "whole number"),
    (["--tensor-parallel-size", "2"], 2, "--tensor-parallel-size 2 is not possible here; only 1 can be: one server"),
    (["--default-chat-template-kwargs", "[]"], 2, "must be an object"),
    (["--default-chat-template-kwargs", "{a}"], 2, "must be a JSON object, got '{a}'"),
    (["--default-chat-template-kwargs", '{"tools": []}'], 2, "tools is the server's to set"),
    (["--allowed-origins", "localhost:3000"], 2, "as http://localhost:3000, without a path, got 'localhost:3000'"),
    (["--allow-credentials"], 2, "--allow-credentials says what other origins may; name them with --allowed-origins"),
    (["--ssl-certfile", "/nowhere.pem"], 2, "cannot be read: No such file or directory"),
    (["--ssl-certfile", CERTIFICATE], 2, "cannot be read: "),  # the key is in another file
    (["--ssl-keyfile", KEY], 2, "give --ssl-certfile, too"),
    (["--structured-outputs-config", "[]"], 2, "must be a JSON object, got '[]'"),
    (["--structured-outputs-config={"], 2, "must be a JSON object, got '{'"),
    (["--structured-outputs-config"], 2, "must be a JSON object, got ''"),
    (["--structured-outputs-config", '{"backend": ["auto"]}'], 2, "backend must be one text, number or true or false"),
    (["--structured-outputs-config", '{"backend": "lm-format-enforcer"}'], 2, "invalid choice"),
    (["--structured-outputs-config", '{"bakcend": "auto"}'], 2, "did you mean --structured-outputs-config.backend?"),
    (["--structured-outputs-config", '{"disable_additional_properties": true}'], 2, "only false can be"),
    (["--speculative-algorithm", "EAGLE"], 2, "ngram"),
    (["--speculative-config", '{"method": "eagle"}'], 2, "ngram"),
    (["--speculative-config", '{"model": "small"}'], 2, "there are no draft models"),
    (["--speculative-config", '{"num_speculative_tokens": 0}'], 2, "at least 1"),
    (["--speculative-draft-model-path", "x"], 2, "there are no draft models"),
    (["--load-format=gguf"], 2, "invalid choice"),
    (["--schedule-policy", "random"], 2, "dfs-weight"),
    (["--radix-eviction-policy", "slru"], 2, "lfu"),
    (["--kv-cache-dtype", "fp8_e5m2"], 2, "fp8_e4m3"),
    (["elsewhere"], 2, "two models are named: elsewhere and --model-path somewhere"),
    (["--config", "/nowhere.yaml"], 2, "--config /nowhere.yaml cannot be read"),
]


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    assert isinstance(status, int)
    return status, capsys.readouterr().err


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets as far as the engine has checked too little."""
    monkeypatch.setitem(sys.modules, "stolon.runtime.engine", None)


@pytest.mark.parametrize(("flags", "status", "says"), BAD, ids=[" ".join(bad[0])[:40] for bad in BAD])
def test_a_bad_flag_is_one_line_and_status_2(
    flags: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    got, err = run([*MODEL, *flags], capsys)
    assert got == status
    assert says in err
    assert err.count("\n") == 1
    assert err.startswith("stolon.launch_server: error: ")


def test_the_model_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    status, err = run([], capsys)
    assert status == 2
    assert "--model-path" in err


CONFIG_FILES: list[tuple[str, tuple[int, float | None]]] = [
    ("port: 1234\ngpu-memory-utilization: 0.5", (1234, 0.5)),
    ("port: 1234\nmemory_fraction: 0.5", (1234, 0.5)),
    ("# a comment\nenable-metrics: true\nradix_cache: false", (30000, None)),
    ("speculative-config: {method: ngram, num_speculative_tokens: 3}\nport: 9", (9, None)),
]


@pytest.mark.parametrize(("text", "expected"), CONFIG_FILES)
def test_a_file_brings_flags(tmp_path: Path, text: str, expected: tuple[int, float | None]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"model: tiny\n{text}\n")
    server, engine = parse(["--config", str(path)])
    assert (engine.model_path, server.port, engine.memory_fraction) == ("tiny", *expected)
    assert engine.scheduler.radix_cache is ("radix" not in text)


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model: elsewhere\nport: 1234\nseed: 3\n")
    server, engine = parse(["--config", str(path), "--port", "99", "--model", "tiny"])
    assert (server.port, engine.model_path, engine.random_seed) == (99, "tiny", 3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot: 1", "there is no flag 'prot'; did you mean port?"),
        ("port: 70000", "config.yaml: argument --port: must be at least 1 and at most 65535"),
        ("port: [1, 2]", "port must be one text or number, got [1, 2]"),
        ("insecure-no-auth: please", "must be true or false"),
        ("enable-lora: true", "merge them into the weights"),
        ("speculative-config: {methot: ngram}", "did you mean --speculative-config.method?"),
        ("config: other.yaml", "there is no flag 'config'"),
        ("- port", "must hold flags"),
        ("port: [", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_wrong_file_is_one_line_and_status_2(
    tmp_path: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    status, err = run([*MODEL, "--config", str(path)], capsys)
    assert status == 2
    assert says in err
    assert "config.yaml" in err
    assert err.count("\n") == 1


def test_start_commands_of_vllm_and_sglang_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    server, engine = parse("tiny --dtype auto --api-key token-abc123 --max-model-len 32k".split())
    assert (server.api_key, engine.model_path, engine.context_length) == (("token-abc123",), "tiny", 32_000)
    sglang = "--model-path tiny --tp 1 --mem-fraction-static 0.8 --schedule-conservativeness 1.0 --enable-metrics"
    assert parse(sglang.split())[1].memory_fraction == 0.8
    graphs = parse("tiny --disable-decode-cuda-graph --cuda-graph-max-bs-decode 8".split())[1]
    assert (graphs.cuda_graph, graphs.cuda_graph_max_bs) == (False, 8)
    notes = capsys.readouterr().err
    assert "note: without effect here: --enable-metrics: metrics are served" in notes
    assert notes.count("\n") == 3


def test_values_and_spellings_of_vllm_are_ours(capsys: pytest.CaptureFixture[str]) -> None:
    engine = parse("tiny --dtype half --kv-cache-dtype fp8 --max_model_len=32k --runner pooling".split())[1]
    assert (engine.dtype, engine.kv_cache_dtype, engine.context_length) == ("float16", "fp8_e4m3", 32_000)
    assert engine.is_embedding
    assert parse("tiny --dtype=float --served_model_name my_model".split())[1] == EngineConfig(
        model_path="tiny", dtype="float32", served_model_name=("my_model",)
    )
    assert parse("tiny --grammar-backend xgrammar".split())[1].grammar_backend == "auto"
    policies = {"schedule-policy dfs-weight": "dfs-weight", "schedule-policy priority": "fcfs"}
    policies |= {"scheduling-policy fcfs": "fcfs", "scheduling-policy priority": "fcfs"}
    for said, policy in policies.items():
        assert parse(["tiny", *f"--{said}".split()])[1].scheduler.schedule_policy == policy
    for said in ("--chunked-prefill-size -1", "--max-num-batched-tokens=-1"):
        assert parse(["tiny", *said.split()])[1].scheduler.token_budget == -1
    assert parse("tiny --radix-eviction-policy lfu".split())[1].scheduler.radix_eviction_policy == "lfu"
    overrides = """{"rope_theta": 2}"""
    assert parse(["tiny", "--json-model-override-args", overrides])[1].hf_overrides == overrides
    hub = "org/m --revision v1 --tokenizer t --tokenizer_revision v2 --download-dir d"
    assert parse(hub.split())[1] == EngineConfig(
        model_path="org/m", revision="v1", tokenizer_path="t", tokenizer_revision="v2", download_dir="d"
    )
    for guess in (
        ["--speculative-algorithm", "NGRAM", "--speculative-num-draft-tokens", "5"],
        ["--speculative-config", '{"method": "ngram", "num_speculative_tokens": 5}'],
        ["--speculative_config.method", "ngram", "--speculative-config.num_speculative_tokens=5"],
    ):
        scheduler = parse(["tiny", *guess])[1].scheduler
        assert (scheduler.speculative_algorithm, scheduler.speculative_num_draft_tokens) == ("ngram", 5)
    white = parse(["tiny", "--constrained-json-whitespace-pattern", ""])[1]
    assert white.constrained_json_whitespace_pattern == ""
    assert capsys.readouterr().err == ""


def test_pages_of_other_origins_are_allowed_as_in_vllm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*MODEL, "--allowed-origins", '["http://a", "http://b"]', "--allowed-methods=GET", "--allow-credentials"]
    sharing = Sharing.of(parse(flags)[0])
    assert sharing == Sharing(frozenset({"http://a", "http://b"}), frozenset({"GET"}), frozenset({"*"}), True)
    file = tmp_path / "config.yaml"
    file.write_text("allowed-origins: [http://a]\n")
    assert parse([*MODEL, "--config", str(file)])[0].allowed_origins == ("http://a",)
    for key, is_warned in (([], True), (["--api-key", "k"], False)):
        _, said = run([*MODEL, "--host", "no.such.host.invalid", "--allowed-origins", "*", *key], capsys)
        assert ("whoever visits an allowed page lends it this server" in said) is is_warned


def test_several_names_and_keys_may_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("served-model-name: [a, b/c]\napi-key: [k, l]\nmodel: tiny\n")
    for flags in ("tiny --served-model-name a b/c --api-key k l", f"--config {file}", f"--config {file} --api-key k l"):
        server, engine = parse(flags.split())
        assert (engine.served_model_name, server.api_key, engine.model_path) == (("a", "b/c"), ("k", "l"), "tiny")
    assert parse(f"--config {file} --api-key m".split())[0].api_key == ("m",)
    assert run(["--served-model-name", "a", "tiny"], capsys)[0] == 2
    assert run(["--served-model-name", "a", "tiny"], capsys)[1].endswith("takes all that follow it\n")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("32k", 32_000), ("32K", 32_768), ("25.6k", 25_600), ("1m", 10**6), ("auto", None), ("-1", None)],
)
def test_a_context_length_is_read_as_vllm_reads_it(text: str, tokens: int | None) -> None:
    for flags in (["--max-model-len", text], [f"--max_model_len={text}"]):
        assert parse([*MODEL, "--context-length", "7", *flags])[1].context_length == tokens


def test_the_size_of_the_cache_may_be_given_in_bytes_or_blocks() -> None:
    assert parse([*MODEL, "--kv-cache-memory-bytes", "1.5g"])[1].kv_bytes == 1_500_000_000
    assert parse([*MODEL, "--kv-cache-memory-bytes=2G"])[1].kv_bytes == 2 << 30
    engine = parse([*MODEL, "--num-gpu-blocks-override", "512", "--block-size", "16"])[1]
    assert (engine.kv_pages, engine.scheduler.page_size) == (512, 16)


def test_steps_are_logged_where_that_is_asked_for() -> None:
    assert parse(MODEL)[1].decode_log_interval == 40
    assert parse([*MODEL, "--decode-log-interval", "0"])[1].decode_log_interval == 0


def test_settings_in_an_object_are_those_of_their_own_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("""structured-outputs-config: '{"backend": "guidance", "reasoning_parser": "qwen3"}'\n""")
    found = '{"backend": "guidance", "reasoning_parser": "qwen3", "disable_fallback": false, "x": null}'
    for flags in (
        ["--structured-outputs-config", found],
        [f"--structured_outputs_config={found}"],
        ["--structured-outputs-config.backend", "guidance", "--structured_outputs_config.reasoning_parser=qwen3"],
        ["--guided-decoding-backend", "guidance", "--reasoning-parser", "qwen3"],
        ["--config", str(file)],
    ):
        server, engine = parse([*MODEL, *flags])
        assert (engine.grammar_backend, server.reasoning_parser) == ("llguidance", "qwen3")
    assert capsys.readouterr().err.count("\n") == 2
    parse([*MODEL, "--structured-outputs-config", '{"disable_any_whitespace": true, "backend": "xgrammar"}'])
    assert (
        "note: without effect here: --structured-outputs-config.disable-any-whitespace: in JSON stand"
        in capsys.readouterr().err
    )


def test_every_flag_of_others_is_taken_or_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in FOREIGN:
        for name in flag.names:
            value = [(flag.allowed or ("x",))[0]] if flag.takes_value else []
            status = 2
            with contextlib.suppress(SystemExit):
                parse([*MODEL, name, *value])
                status = 0
            err = capsys.readouterr().err
            assert flag.says in " ".join(err.split()), name
            assert (status == 2) == (flag.allowed == ()), name


def test_every_setting_is_in_one_group_of_the_help() -> None:
    for title, config, names in _GROUPS:
        known = {field.name for field in dataclasses.fields(config)}
        assert set(names.split()) <= known, title


def test_a_port_in_use_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, err = run([*MODEL, "--port", str(port)], capsys)
    assert status == 1
    assert f"port {port} on 127.0.0.1 is in use" in err
    assert err.count("\n") == 1


def test_every_setting_has_a_flag_and_every_further_spelling_works() -> None:
    for config in (EngineConfig, ServerConfig, SchedulerConfig):
        for field in dataclasses.fields(config):
            if field.name == "scheduler":
                continue
            assert field.metadata["help"], field.name
    server, engine = parse(
        "--model tiny --host 127.0.0.2 --port 1234 --max-model-len 99 --max-total-tokens 5 --seed 3 --block-size 4 "
        "--chunked-prefill-size 64 --mem-fraction-static 0.5 --max-num-seqs 7 --disable-radix-cache --check "
        "--disable-overlap-schedule "
        "--dtype bfloat16 --tokenizer t --served-model-name n --drain-seconds 1.5".split()
    )
    assert (server.host, server.port, server.drain_seconds) == ("127.0.0.2", 1234, 1.5)
    assert engine == EngineConfig(
        model_path="tiny",
        tokenizer_path="t",
        served_model_name=("n",),
        dtype="bfloat16",
        context_length=99,
        kv_tokens=5,
        memory_fraction=0.5,
        random_seed=3,
        overlap=False,
        scheduler=SchedulerConfig(token_budget=64, max_running_requests=7, page_size=4, radix_cache=False, check=True),
    )


def test_without_flags_the_settings_have_their_own_defaults() -> None:
    assert parse(["--model-path", "x"]) == (ServerConfig(), EngineConfig(model_path="x"))


def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for config in (EngineConfig, ServerConfig, SchedulerConfig):
        for field in dataclasses.fields(config):
            if field.name != "scheduler":
                assert field.name.replace("_", "-") in text


def test_a_key_does_not_show_in_the_settings() -> None:
    server, _ = parse([*MODEL, "--api-key", "sk-CANARY"])
    assert "sk-CANARY" not in repr(server)


def test_flags_are_checked_without_torch_and_a_missing_model_is_one_line(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    code = (
        "import sys\n"
        "from stolon.launch_server import main\n"
        "status = main(['--model-path', 'x', '--host', '0.0.0.0'])\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'too much was imported'\n"
        "sys.exit(status)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2, found.stderr


def test_log_lines_are_ascii_and_cannot_steer_a_terminal() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "a\u2028b\x1b[31m %s", ("ü\x85\r",), None)
    assert Ascii("%(message)s").format(record) == "a\\u2028b\\x1b[31m \\xfc\\x85\\x0d"
