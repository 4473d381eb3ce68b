"""Few-shot questions: one prefix of examples, shared by all questions of a batch and computed once."""

from stolon import Runtime, function, gen, set_default_backend

EXAMPLES = """\
Question: What is the capital of France?
Answer: Paris

Question: What is the capital of Peru?
Answer: Lima

"""


@function
def few_shot_qa(s, question):
    s += EXAMPLES
    s += "Question: " + question + "\n"
    s += "Answer:" + gen("answer", stop="\n", temperature=0)


set_default_backend(Runtime("tiny"))
countries = ["Japan", "Germany", "Italy", "Kenya"]
states = few_shot_qa.run_batch([{"question": f"What is the capital of {country}?"} for country in countries])
for country, state in zip(countries, states, strict=True):
    usage = state.usage
    print(f"{country}: {state['answer'].strip()}   ({usage.cached_tokens} of {usage.prompt_tokens} tokens were shared)")
