"""Fork: two tips, each expanded in a branch of its own. The branches run at once and share what came before them."""

from stolon import Runtime, assistant, function, gen, set_default_backend, system, user


@function
def expand_tips(s, topic):
    s += system("You are a helpful assistant.")
    s += user(f"Give me two tips for {topic}.")
    s += assistant(gen("tips", max_tokens=64, temperature=0))

    branches = s.fork(2)
    for number, branch in enumerate(branches, start=1):
        branch += user(f"Expand tip {number} into a paragraph.")
        branch += assistant(gen("paragraph", max_tokens=96, temperature=0))
    return [branch["paragraph"] for branch in branches]


set_default_backend(Runtime("tiny"))
state = expand_tips.run(topic="staying healthy")
print(state["tips"])
for number, paragraph in enumerate(state.value, start=1):
    print(f"\nTip {number}: {paragraph}")
