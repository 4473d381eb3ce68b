"""Streaming: text as it is generated. Leaving the loop early would cancel the rest."""

from stolon import Runtime, assistant, function, gen, set_default_backend, user


@function
def essay(s, topic):
    s += user(f"Write a short essay about {topic}.")
    s += assistant(gen("essay", max_tokens=128, temperature=0))


set_default_backend(Runtime("tiny"))
state = essay.run("friendship", stream=True)
for piece in state.text_iter("essay"):
    print(piece, end="", flush=True)
print()
