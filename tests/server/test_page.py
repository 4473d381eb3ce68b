"""The page at `/` in a real browser, and what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.server.browser import CHROMIUM, Page, browser_page
from tests.server.conftest import StartServer
from tests.server.fake import FakeEngine
from tests.server.fake_embedder import FakeEmbedder

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with browser_page() as found:
        yield found


async def test_the_page_is_one_piece_that_may_run_nothing_else(start: StartServer) -> None:
    server = await start(key="k")
    async with server.http.get("/", headers={"Authorization": ""}) as reply:
        text = await reply.text()
        assert reply.status == 200
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert "fake" not in text
    for outside in ("http://", "https://", "src=", "@import", "url("):
        assert outside not in text.replace("http://www.w3.org/2000/svg", ""), outside


async def test_what_was_cached_is_read_with_the_admin_key_only(start: StartServer) -> None:
    server = await start(key="k", admin="operator")
    for key, texts in (("k", [None, None, None]), ("operator", ["Hello", " world", " there"])):
        async with server.http.get("/dashboard/state", headers={"Authorization": f"Bearer {key}"}) as reply:
            found = await reply.json()
        assert [node["text"] for node in found["nodes"]] == texts
    async with server.http.get("/dashboard/state", headers={"Authorization": "Bearer wrong"}) as reply:
        assert reply.status == 401


@needs_browser
async def test_the_page_shows_load_tree_and_requests_and_asks_nobody_else(start: StartServer, page: Page) -> None:
    server = await start()
    await page.open(f"{server.url}/")
    await page.until("document.querySelectorAll('#tree rect').length === 3")
    assert await page.evaluate("document.getElementById('model').textContent") == server.engine.model_name
    assert await page.evaluate("document.getElementById('status').textContent") == "serving"
    assert await page.evaluate("document.getElementById('hits').textContent") == "45.5 %"
    assert await page.evaluate("document.getElementById('kv').textContent") == "20.0 %"
    assert await page.evaluate("[...document.querySelectorAll('#requests td')].map(e => e.textContent.trim())") == [
        *("7", "running", "11", "5", "11", "3 / 16")
    ]
    # the shared run stands left of both that go on from it, and spans their rows
    left, *right = await page.evaluate(
        "[...document.querySelectorAll('#tree rect')].map(e => e.getBBox()).map(b => [b.x, b.x + b.width, b.height])"
    )
    assert all(abs(block[0] - left[1]) < 1 for block in right)
    assert left[2] == sum(block[2] for block in right)
    await page.evaluate("document.querySelector('#tree rect').dispatchEvent(new Event('click', {bubbles: true}))")
    assert "5 tokens, up to position 5" in await page.evaluate("document.getElementById('tree-node').textContent")
    assert page.complaints == []
    assert {url.split("/")[2] for url in page.requests if url.startswith("http")} == {f"127.0.0.1:{server.port}"}


@needs_browser
async def test_the_page_of_a_server_of_embeddings_shows_what_such_a_server_has(start: StartServer, page: Page) -> None:
    embedder = FakeEmbedder()
    server = await start(embedder=embedder)
    embedder.hold.clear()
    async with server.http.get("/dashboard/state") as reply:
        found = await reply.json()
    assert (reply.status, found["generates"], found["nodes"], found["requests"]) == (200, False, [], [])
    asked = asyncio.create_task(server.http.post("/v1/embeddings", json={"model": "fake", "input": "abc"}))
    await page.open(f"{server.url}/")
    await page.until("document.getElementById('running').textContent === '1'")
    assert await page.evaluate("document.getElementById('status').textContent") == "serving"
    seen = "[...document.querySelectorAll('h2')].filter(e => e.offsetParent).map(e => e.textContent)"
    assert await page.evaluate(seen) == ["Texts read", "Prompts computed", "Requests"]
    embedder.hold.set()
    await asked
    await page.until("document.getElementById('finished').textContent !== '–'")
    assert page.complaints == []


@needs_browser
async def test_the_page_asks_for_a_key_and_shows_texts_to_the_operator(start: StartServer, page: Page) -> None:
    server = await start(key="k", admin="operator")
    await page.open(f"{server.url}/")
    await page.until("document.getElementById('status').textContent === 'key needed'")

    async def use(key: str) -> None:
        await page.evaluate(f"document.getElementById('key').value = '{key}'")
        await page.evaluate("document.getElementById('key-form').requestSubmit()")
        await page.until("document.getElementById('status').textContent === 'serving'")

    await use("k")
    labels = "[...document.querySelectorAll('#tree text')].map(e => e.textContent)"
    assert await page.evaluate(labels) == ["5", "6", "6"]
    await use("operator")
    await page.until(f"{labels}[0] === 'Hello'")


@needs_browser
async def test_the_playground_streams_a_conversation_with_the_settings_given(start: StartServer, page: Page) -> None:
    engine = FakeEngine()
    server = await start(engine)
    await page.open(f"{server.url}/")

    async def ask(question: str) -> None:
        await page.evaluate(f"document.getElementById('question').value = '{question}'")
        await page.evaluate("document.getElementById('ask').requestSubmit()")

    await page.evaluate("document.getElementById('seed').value = 5; document.getElementById('max_tokens').value = 4")
    await ask("abcdef")
    await page.until("document.querySelector('.turn.assistant small')")
    text = "document.querySelector('.turn.assistant').firstChild.data"
    assert await page.evaluate(text) == " :tn"
    note = await page.evaluate("document.querySelector('.turn.assistant small').textContent")
    assert "4 tokens" in note
    assert "cut at the limit" in note
    await page.evaluate("document.getElementById('schema').value = '{'")
    await ask("x")
    await page.until("document.querySelector('.turn.failed')?.textContent.includes('JSON schema')")
    await page.evaluate("document.getElementById('schema').value = ''")
    await page.evaluate("document.getElementById('max_tokens').value = 1e7")
    await ask("x")
    await page.until("[...document.querySelectorAll('.turn.failed')].at(-1).textContent.includes('max_tokens')")


@needs_browser
@pytest.mark.parametrize("width", [360, 820, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_fits_its_window_and_can_be_read(
    start: StartServer, page: Page, width: int, scheme: str
) -> None:
    server = await start()
    await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await page.open(f"{server.url}/", width=width)
    await page.until("document.querySelectorAll('#tree rect').length === 3")
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    assert await page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.table-box'))") == 0
    lightness = await page.evaluate(
        "[document.body, document.querySelector('article')].flatMap(e => {"
        "  const style = getComputedStyle(e);"
        "  return [style.color, style.backgroundColor].map(c => c.match(/[0-9]+/g).slice(0, 3)"
        "    .map(Number).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)"
        "    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0)); })"
    )
    for ink, ground in (lightness[:2], lightness[2:]):
        assert (ground < ink) == (scheme == "dark")
        # WCAG 2.2, contrast (enhanced)
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 7
