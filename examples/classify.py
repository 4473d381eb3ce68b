"""Classification with probabilities: how sure the model is, and what it would have said instead."""

from stolon import Runtime, assistant, function, select, set_default_backend, user

LABELS = ["positive", "negative", "neutral"]


@function
def classify(s, review):
    s += user(f"Classify as positive, negative or neutral: {review}")
    s += assistant(select("label", LABELS))
    return s["label"]


set_default_backend(Runtime("tiny"))
reviews = ["What a wonderful hotel!", "The soup was cold and awful.", "The film was okay."]
for review, state in zip(reviews, classify.map(reviews), strict=True):
    probabilities = state.info("label").probs
    bars = "  ".join(f"{label} {'█' * round(10 * probabilities[label]):<10}" for label in LABELS)
    print(f"{review:<32}{state.value:<10}{bars}")
