"""An async program: the same words; reads are awaited. Thousands can run at once in one thread."""

import asyncio

from stolon import Runtime, assistant, function, gen, set_default_backend, user


@function
async def capital(s, country):
    s += user(f"What is the capital of {country}?")
    s += assistant(gen("answer", max_tokens=32, temperature=0))
    return await s.get("answer")


async def main() -> None:
    states = await asyncio.gather(*(capital.arun(country) for country in ["Spain", "Japan", "Egypt"]))
    for state in states:
        print(state.value)


set_default_backend(Runtime("tiny"))
asyncio.run(main())
