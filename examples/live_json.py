"""JSON while it is generated: each part is a dictionary that can be shown, long before the answer is whole."""

import json
import sys

from pydantic import BaseModel, Field

from stolon import Runtime, assistant, function, gen, set_default_backend, user


class Character(BaseModel):
    name: str = Field(max_length=20)
    race: str = Field(max_length=20)
    level: int = Field(ge=1, le=20)
    weapon: str = Field(max_length=20)
    alive: bool


@function
def sheet(s, name):
    s += user(f"Write a JSON character sheet for {name}. Fields: name, race, level, weapon, alive.")
    s += assistant(gen("character", Character, max_tokens=100, temperature=0))


set_default_backend(Runtime("tiny"))
state = sheet.run("Arin", stream=True)
is_terminal = sys.stdout.isatty()
drawn = 0
for part in state.stream("character"):
    if is_terminal and drawn:
        print(f"\x1b[{drawn}F\x1b[J", end="")  # back to the first line of the sheet, and clear it
    text = json.dumps(part, indent=2)
    drawn = text.count("\n") + 1
    if is_terminal:
        print(text, flush=True)
    else:
        print(json.dumps(part), flush=True)
print(repr(state["character"]))
