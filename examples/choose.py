"""select: the answer is the option that the model finds most likely; all options are scored in one pass."""

from stolon import Runtime, assistant, function, select, set_default_backend, user


@function
def sentiment(s, review):
    s += user(f"Is this review positive or negative? {review}")
    s += assistant(select("label", ["positive", "negative"]))


set_default_backend(Runtime("tiny"))
for review in ["The food was excellent and the staff was charming.", "A boring movie with a terrible ending."]:
    state = sentiment.run(review)
    probabilities = {option: round(p, 3) for option, p in state.info("label").probs.items()}
    print(f"{review} -> {state['label']} {probabilities}")
