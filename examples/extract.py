"""Typed extraction: a type goes in and a value of it comes out; the model cannot say anything else."""

from dataclasses import dataclass

from stolon import Runtime, assistant, function, gen, set_default_backend, user


@dataclass
class Person:
    name: str
    age: int
    city: str
    job: str


@function
def extract(s, text):
    s += user(f"Extract the name, age, city and job from this text as JSON: {text}")
    s += assistant(gen("person", Person, max_tokens=80, temperature=0))
    return s["person"]


set_default_backend(Runtime("tiny"))
texts = ["Maria is 34 years old, lives in Rome and works as a teacher.", "Tom (51) is a doctor in Oslo."]
people = [state.value for state in extract.map(texts)]
for person in sorted(people, key=lambda person: person.age):
    print(f"{person.name}, {person.age}, {person.job} in {person.city}")
