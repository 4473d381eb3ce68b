"""Our own HTTP backend against our own server: what the engine says arrives unchanged."""

from __future__ import annotations

from stolon.backends.endpoint import RuntimeEndpoint
from stolon.lang.backend import GenerateRequest
from stolon.lang.prompt import EMPTY, RoleClose, RoleOpen, Text
from stolon.lang.types import SamplingParams
from tests.server.conftest import Running


async def test_what_the_engine_says_arrives_unchanged(server: Running) -> None:
    params = SamplingParams(n=2, logprobs=2, prompt_logprobs=1, seed=3, temperature=3.0, max_tokens=2)
    endpoint = RuntimeEndpoint(server.url)
    request = GenerateRequest(prompt=EMPTY.append(Text("abc")), params=params)
    deltas = [delta async for delta in endpoint.stream(request)]
    await endpoint.close()
    assert server.engine.asked[0].params.temperature == 3.0
    assert server.engine.asked[0].params.seed == 3
    for index in range(2):
        own = [delta for delta in deltas if delta.index == index]
        assert "".join(delta.text for delta in own) == "cb"
        assert [token for delta in own for token in delta.tokens] == [99, 98]
        assert [entry.logprob for delta in own for entry in delta.logprobs or ()] == [-0.99, -0.98]
        assert [delta.finish for delta in own if delta.finish] == ["length"]
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.completion_tokens == 4


async def test_roles_and_scores_go_through_the_template(server: Running) -> None:
    endpoint = RuntimeEndpoint(server.url)
    prompt = EMPTY.append(RoleOpen("user")).append(Text("q")).append(RoleClose())
    prompt = prompt.append(RoleOpen("assistant")).append(Text("so "))
    request = GenerateRequest(prompt=prompt, params=SamplingParams(max_tokens=4))
    assert "".join([delta.text async for delta in endpoint.stream(request)]) == " os "
    one, two = await endpoint.score(prompt, ["x", "yz"], unconditional=True)
    assert (one.tokens, two.tokens) == (tuple(b"x"), tuple(b"yz"))
    assert two.logprobs == two.unconditional == (-1.21, -1.22)
    assert await endpoint.flush_cache()
    await endpoint.close()
