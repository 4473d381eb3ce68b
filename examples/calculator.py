"""An agent that leaves arithmetic to Python: a grammar lets the model write an expression and nothing else."""

import ast
import operator

from stolon import Runtime, function, gen, set_default_backend, user

EXPRESSION = r"""
start: NUMBER (" " SIGN " " NUMBER)~1..3
SIGN: "+" | "-" | "*"
NUMBER: /0|[1-9][0-9]{0,4}/
"""
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def calculate(node):
    """The value of an expression; the grammar leaves no other nodes."""
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](calculate(node.left), calculate(node.right))
    return node.value


@function
def calculator(s, question):
    s += user(question)
    with s.assistant():
        s += gen("expression", grammar=EXPRESSION, max_tokens=24, temperature=0)
        result = calculate(ast.parse(s["expression"], mode="eval").body)
        s += f" = {result}."
    return result


set_default_backend(Runtime("tiny"))
for question in ["What is 57 - 19?", "Calculate 8 times 12.", "How much is 84 + 37?"]:
    state = calculator.run(question)
    print(f"{question} -> {state['expression']} = {state.value}")
