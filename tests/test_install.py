"""What a user installs: the base package answers remote backends without any of the local extra's packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Runs in a fresh interpreter in which the packages of the `local` extra cannot be found.
SCRIPT = """
import asyncio, json, sys, threading

class Absent:
    banned = {"torch", "transformers", "safetensors", "tokenizers", "numpy", "jinja2", "triton"}

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in self.banned else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Absent, sys.meta_path)

from aiohttp import web
from stolon import OpenAI, assistant, function, gen, user

async def answer(request):
    asked = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for text, reason in (("You said: ", None), (asked["messages"][-1]["content"], None), ("", "stop")):
        event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
                 "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}
        await response.write(f"data: {json.dumps(event)}\\n\\n".encode())
    await response.write(b"data: [DONE]\\n\\n")
    return response

ready = threading.Event()
ports = []

def serve():
    async def run():
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ports.append(site._server.sockets[0].getsockname()[1])
        ready.set()
        await asyncio.Event().wait()
    asyncio.run(run())

threading.Thread(target=serve, daemon=True).start()
ready.wait(10)

@function
def echo(s, text):
    s += user(text)
    s += assistant(gen("answer"))

state = echo.run("hello", backend=OpenAI("m", base_url=f"http://127.0.0.1:{ports[0]}/v1", api_key="none"))
assert state["answer"] == "You said: hello", state["answer"]
loaded = Absent.banned & set(sys.modules)
assert not loaded, loaded

names = {}
exec("from stolon import *", names)
assert "RuntimeEndpoint" in names and "Runtime" not in names

import stolon
try:
    stolon.Runtime("tiny")
except ImportError as error:
    assert "stolon[local]" in str(error), error
else:
    raise AssertionError("a runtime without torch")
"""


def test_remote_backends_need_nothing_of_the_local_extra(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
