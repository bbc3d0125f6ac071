"""Refuse problems that cannot become layers, and show the expression that is to blame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from convexdistill.errors import DtypeError, InvalidInputError, UnsupportedError


def check(problem: Any, parameters: Sequence[Any], variables: Sequence[Any], gp: bool) -> None:
    """Check that a problem is DPP, continuous, real, and that parameters and variables are its own.

    Raises:
        DtypeError: ``problem`` is no ``cvxpy.Problem``.
        InvalidInputError: it is not DPP, or the lists do not fit it.
        UnsupportedError: it has integer or complex variables, or no parameters.
    """
    cp: Any = import_module("cvxpy")
    if not isinstance(problem, cp.Problem):
        raise DtypeError(f"problem must be a cvxpy.Problem, got {type(problem).__qualname__}.")
    if problem.is_mixed_integer():
        raise UnsupportedError("the problem has integer variables, which have no derivative; relax them.")
    if any(leaf.is_complex() for leaf in (*problem.variables(), *problem.parameters())):
        raise UnsupportedError("the problem is complex; write it in real and imaginary parts.")
    _check_members(problem, parameters, variables)
    scopes: Any = import_module("cvxpy.utilities.scopes")
    with scopes.quad_form_dpp_scope():
        context = "dgp" if gp else "dcp"
        if problem.is_dpp(context):
            return
        kind, convex = ("DGP", problem.is_dgp()) if gp else ("DCP", problem.is_dcp())
        culprit, where = _culprit(problem, context)
    reason = (
        "it is convex for every value of its parameters, but not affine in them in the way that lets it be "
        "compiled once; replace products of parameters by parameters of their own"
        if convex
        else f"it does not follow the rules of {kind} either"
    )
    raise InvalidInputError(f"the problem is not DPP: {where} has {culprit}; {reason}.")


def is_symmetric(parameter: Any) -> bool:
    """Whether only symmetric matrices are values of a parameter."""
    return any(parameter.attributes.get(name) for name in ("symmetric", "PSD", "NSD"))


def _check_members(problem: Any, parameters: Sequence[Any], variables: Sequence[Any]) -> None:
    own = {p.id: p for p in problem.parameters()}
    counts = Counter(p.id for p in parameters)
    missing = [p.name() for p in own.values() if p.id not in counts]
    strange = [p.name() for p in parameters if p.id not in own]
    twice = [own[i].name() for i, count in counts.items() if count > 1 and i in own]
    for names, what in ((missing, "are missing"), (strange, "are not in the problem"), (twice, "are there twice")):
        if names:
            raise InvalidInputError(f"parameters must be those of the problem: {', '.join(names)} {what}.")
    if not own:
        raise UnsupportedError(
            "the problem has no parameters, so there is nothing to differentiate; solve it once."
        )
    known = {v.id for v in problem.variables()}
    known |= {dual.id for constraint in problem.constraints for dual in constraint.dual_variables}
    unknown = [v.name() for v in variables if v.id not in known]
    if unknown:
        raise InvalidInputError(
            "variables must be variables of the problem, or dual variables of its constraints: "
            f"{', '.join(unknown)} are not."
        )
    if not variables:
        raise InvalidInputError("variables is empty; name at least one variable whose value is wanted.")


def _culprit(problem: Any, context: str) -> tuple[str, str]:
    """The smallest expression that is not DPP, and the part of the problem that holds it."""
    parts = [("the objective", problem.objective.args[0], problem.objective)]
    parts += [(f"constraint {i}", c, c) for i, c in enumerate(problem.constraints)]
    for where, top, whole in parts:
        if whole.is_dpp(context):
            continue
        expression = top
        while inner := [a for a in getattr(expression, "args", []) if not a.is_dpp(context)]:
            expression = inner[0]
        return f"`{expression}`", where
    return "`" + str(problem.objective) + "`", "the problem"
