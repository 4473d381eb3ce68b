"""An agent loop: the model asks for a tool, Python runs it, the model reads what it gave and answers."""

import json
import re

from stolon import Runtime, assistant, function, gen, set_default_backend, system, tool, user


def get_weather(city):
    return {"weather": "sunny", "temperature": 21}


def get_time(city):
    return {"time": "14:05"}


TOOLS = {
    "get_weather": (get_weather, "Get the weather of a city"),
    "get_time": (get_time, "Get the local time of a city"),
}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = re.compile(r"<tool_call>\s*(\{.*\})\s*</tool_call>", re.DOTALL)


def instructions():
    """How the built-in model was taught to read about tools; other models have words of their own."""
    described = [
        {"type": "function", "function": {"name": name, "description": text, "parameters": PARAMETERS}}
        for name, (_, text) in TOOLS.items()
    ]
    listed = "\n".join(json.dumps(one) for one in described)
    call = '<tool_call>\n{"name": <tool name>, "arguments": <arguments as JSON>}\n</tool_call>'
    return f"You can call these tools:\n<tools>\n{listed}\n</tools>\nTo call a tool, answer with\n{call}"


@function
def agent(s, question, max_steps=3):
    s += system(instructions())
    s += user(question)
    for step in range(max_steps):
        s += assistant(gen(f"step_{step}", max_tokens=96, temperature=0))
        call = CALL.search(s[f"step_{step}"])
        if call is None:
            return s[f"step_{step}"]
        asked = json.loads(call[1])
        run, _ = TOOLS[asked["name"]]
        s += tool(json.dumps(run(**asked["arguments"])))
    return "no answer within the steps allowed"


set_default_backend(Runtime("tiny"))
state = agent.run("What is the weather in Paris?")
for message in state.messages()[1:]:
    print(f"{message['role']}: {message['content']}")
