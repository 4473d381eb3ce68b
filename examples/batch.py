"""A batch with a progress bar; a failed item stays its own."""

from stolon import Runtime, assistant, function, gen, set_default_backend, user


@function
def add(s, a, b):
    s += user(f"What is {a} + {b}?")
    s += assistant(gen("sum", max_tokens=16, temperature=0))
    return s["sum"]


set_default_backend(Runtime("tiny"))
items = [{"a": a, "b": b} for a in range(2, 8) for b in range(3, 7)]
batch = add.map(items, progress=True, errors="return")
right = sum(str(item["a"] + item["b"]) in state.value for item, state in zip(items, batch, strict=True))
print(f"{right} of {len(batch)} sums are right; {len(batch.failed)} failed; {batch.usage}")
