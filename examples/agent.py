"""An agent loop: the model asks for a tool, Python runs it, the model reads the result."""

import json
import re

from stolon import Runtime, assistant, function, gen, set_default_backend, system, user

TOOLS = {
    "get_weather": lambda city: {"city": city, "weather": "sunny", "temperature": 21},
    "get_time": lambda city: {"city": city, "time": "14:05"},
}
DESCRIPTION = """\
You are a helpful assistant.

You can call these tools:
{"name": "get_weather", "parameters": {"city": "string"}}
{"name": "get_time", "parameters": {"city": "string"}}

To call a tool, answer with <tool_call>{"name": ..., "arguments": {...}}</tool_call>."""
CALL = re.compile(r"<tool_call>\s*(\{.*\})\s*</tool_call>", re.DOTALL)


@function
def agent(s, question, max_steps=3):
    s += system(DESCRIPTION)
    s += user(question)
    for step in range(max_steps):
        s += assistant(gen(f"step_{step}", max_tokens=96, temperature=0))
        call = CALL.search(s[f"step_{step}"])
        if call is None:
            return s[f"step_{step}"]
        request = json.loads(call[1])
        result = TOOLS[request["name"]](**request["arguments"])
        s += user(f"<tool_response>{json.dumps(result)}</tool_response>")
    return "no answer within the steps allowed"


set_default_backend(Runtime("tiny"))
state = agent.run("What is the weather in Paris?")
for message in state.messages()[1:]:
    print(f"{message['role']}: {message['content']}")
