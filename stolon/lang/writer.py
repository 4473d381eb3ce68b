"""The appending half of a state: what may come next, and what the backend can honour, checked at the user's line."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn, Union

from .errors import ProgramError, StolonError, UnsupportedError
from .forms import Form
from .generate import Generation
from .interpreter import Chain
from .ir import Gen, Part, RoleBegin, RoleEnd, Select, where
from .options import check_supported, refusal
from .prompt import Role, RoleClose, RoleOpen, Text
from .variables import Variable

THOUGHTS = "_reasoning_content"  # what SGLang appends to the name

# typing.Union: Python 3.10 has no `|` for a subscripted class at run time
Key = Union[str, None, Gen[Any], Select[Any]]  # noqa: UP007


class Writer:
    """Appends to a chain, and knows its variables, the open role, and whether the open turn has content.

    before: the writer of the state that this one branches off
    """

    __slots__ = ("chain", "role", "said", "variables")

    def __init__(self, chain: Chain, before: Writer | None = None) -> None:
        self.chain = chain
        # by name and, for what was generated, by node: the newest of each
        self.variables: dict[Key, Variable] = {} if before is None else dict(before.variables)
        self.role: Role | None = None if before is None else before.role
        self.said = before is not None and before.said

    def names(self) -> list[str]:
        return [key for key in self.variables if isinstance(key, str)]

    def append_all(self, parts: Sequence[Part]) -> None:
        role_before = self.role
        try:
            for part in parts:
                self._append(part)
        except StolonError:
            # half of a turn was appended: end it, or the next turn could not begin
            if self.role is not None and self.role != role_before:
                with suppress(StolonError):
                    self.end_role(None)
            raise

    def _append(self, part: Part) -> None:
        match part:
            case str():
                self._append_text(part)
            case Gen():
                self._append_gen(part)
            case Select():
                self._append_select(part)
            case RoleBegin():
                self.begin_role(part.role)
            case RoleEnd():
                self.end_role(part.role)

    def _append_text(self, text: str) -> None:
        if not text:
            return
        capabilities = self.chain.run.settings.capabilities
        if self.role is None and capabilities.chat_only:
            self._refuse(f"text outside a role ({text[:40]!r})", "put it into user(...), system(...) or assistant(...)")
        self.chain.append(Text(text))
        self.said = True

    def _append_gen(self, node: Gen[Any]) -> None:
        settings = self.chain.run.settings
        resolved = settings.resolve(node.options)
        if resolved.refused is not None:
            check_supported(resolved, f"{node.label()}{where(node.origin)}")
        if node.form is not None:
            self._check_form(node, node.form)
        self._check_place(node)
        variable = self._variable(node, node.name)
        variable.text_in_logprobs = resolved.text_in_logprobs
        variable.form = node.form
        thoughts = None
        if node.marks is not None and node.name is not None:
            thoughts = self._variable(node, node.name + THOUGHTS)
            self.declare(thoughts)
        self._begin(Generation(node, variable, resolved, thoughts))

    def _check_form(self, node: Gen[Any], form: Form) -> None:
        """Refuse a form that this backend cannot hold an answer to."""
        capabilities = self.chain.run.settings.capabilities
        if form.constraint is None or node.asks_again:
            return
        kind, label = form.constraint.kind, f"{node.label()}{where(node.origin)}"
        if kind not in capabilities.constraints:
            known = ", ".join(sorted(capabilities.constraints)) or "no form at all"
            why = dict(capabilities.refusals).get(kind, f"it honours {known}")
            self._refuse(
                f"{label}: {form.shown}, which needs the form {kind!r}",
                f"{why}; fallback='retry' checks and asks again",
            )
        if node.marks is not None and not capabilities.constrains_after:
            self._refuse(f"{label}: {form.shown} after reasoning", "leave the reasoning to the server, or use Runtime")

    def _append_select(self, node: Select[Any]) -> None:
        settings = self.chain.run.settings
        capabilities = settings.capabilities
        if not capabilities.score:
            label = f"{node.label()}{where(node.origin)}"
            if not capabilities.choose:
                self._refuse(f"{label}: select", "use gen(...) and compare the text, or a backend that scores options")
            if node.method is not None:
                reason = refusal(settings.backend, capabilities, "choices_method", node.method)
                raise UnsupportedError(f"{label}: {reason}; it chooses by itself, without log-probabilities")
        self._check_place(node)
        variable = self._variable(node, node.name)
        resolved = settings.resolve_select(node.options)
        self._begin(Generation(node, variable, resolved))

    def _begin(self, op: Generation) -> None:
        """Declare the variable of `op` and append it; in this order, for the backend may be fast."""
        keys: tuple[Key, ...] = (op.variable.name, op.node)
        before = [(key, self.variables.get(key)) for key in keys]
        self.declare(op.variable, op.node)
        try:
            self.chain.append(op)
        except StolonError:
            for key, variable in before:
                if variable is None:
                    del self.variables[key]
                else:
                    self.variables[key] = variable
            raise
        self.said = True

    def _variable(self, node: Gen[Any] | Select[Any], name: str | None) -> Variable:
        variable = Variable(name, node.label(), node.origin)
        if self.chain.run.streaming:
            variable.add_reader(1)  # one is expected, so the increments stay even if it comes late
        return variable

    def _check_place(self, node: Gen[Any] | Select[Any]) -> None:
        """Refuse what this backend cannot generate after: at the user's line, before anything is sent."""
        capabilities = self.chain.run.settings.capabilities
        if not capabilities.chat_only and capabilities.continue_assistant:
            return
        label = f"{node.label()}{where(node.origin)}"
        if capabilities.chat_only and self.role != "assistant":
            place = "outside a role" if self.role is None else f"in the turn of {self.role!r}"
            self._refuse(f"{label}: a generation {place}", "put it into assistant(...)")
        if self.role == "assistant" and self.said and not capabilities.continue_assistant:
            self._refuse(
                f"{label}: assistant text before a generation",
                "put the text into the user's turn, or use a backend that continues the assistant's",
            )

    def _refuse(self, what: str, instead: str) -> NoReturn:
        backend = type(self.chain.run.settings.backend).__name__
        raise UnsupportedError(f"the backend {backend} cannot honour {what}; {instead}")

    def begin_role(self, role: Role) -> None:
        if self.role is not None:
            raise ProgramError(f"the turn of {role!r} begins inside the turn of {self.role!r}; end that one first")
        if not self.chain.run.settings.capabilities.roles:
            self._refuse(f"roles ({role!r})", "use plain text")
        self.chain.append(RoleOpen(role))
        self.role, self.said = role, False

    def end_role(self, role: Role | None) -> None:
        if self.role is None:
            raise ProgramError(f"the turn of {role!r} ends, but none has begun")
        if role is not None and role != self.role:
            raise ProgramError(f"the turn of {role!r} ends, but the open one is that of {self.role!r}")
        self.role = None  # first: also where the chain refuses more
        self.chain.append(RoleClose())

    def declare(self, variable: Variable, node: Gen[Any] | Select[Any] | None = None) -> None:
        self.variables[variable.name] = variable
        if node is not None:
            self.variables[node] = variable
        self.chain.fire()
