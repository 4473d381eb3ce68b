"""A two-turn conversation. The model is the small one that comes with stolon; it knows capitals, sums, little else."""

from stolon import Runtime, assistant, function, gen, set_default_backend, system, user


@function
def multi_turn_question(s, question_1, question_2):
    s += system("You are a helpful assistant.")
    s += user(question_1)
    s += assistant(gen("answer_1", max_tokens=256))
    s += user(question_2)
    s += assistant(gen("answer_2", max_tokens=256))


# The same program on an API: set_default_backend(OpenAI("gpt-3.5-turbo"))
# or on a server: set_default_backend(OpenAI("tiny", base_url="http://127.0.0.1:30000/v1"))
set_default_backend(Runtime("tiny"))
state = multi_turn_question.run(
    question_1="What is the capital of the United States?",
    question_2="List two local attractions.",
)
for m in state.messages():
    print(m["role"], ":", m["content"])
print(state["answer_1"])
