"""Converts documents of bundle format 2 (version 0.1) to format 3."""

import re
from collections.abc import Mapping
from typing import Any

from router.backends.template import CHATML

_USER, _ANSWER = CHATML.user.split("{text}")[0], CHATML.user.split("{text}")[1] + CHATML.answer
_SYSTEM, _END = CHATML.system.split("{text}")
_ARM = re.compile(r"\b(?:single\(n=1\)|larger_model\(n=\d+\))")


def arms(value: Any) -> Any:
    """Return the same JSON value with each arm in its present spelling, anywhere in a string."""
    if isinstance(value, str):
        return _ARM.sub(lambda found: "single" if found[0].startswith("single") else "single(model=large)", value)
    if isinstance(value, list):
        return [arms(each) for each in value]
    if isinstance(value, dict):
        return {arms(key): arms(each) for key, each in value.items()}
    return value


def template(old: Mapping[str, str]) -> dict[str, Any]:
    """Convert a template: ChatML to its parts, any other text to a prompt of one message with text around it."""
    before, _, after = old["prompt"].partition("{prompt}")
    rest = {"retry": old["retry"], "delimiter": old["delimiter"]}
    if not before.endswith(_USER) or after != _ANSWER:
        return {"user": before + "{text}" + after, "answer": "", **rest}
    examples = before.removesuffix(_USER)
    system = None
    if examples.startswith(_SYSTEM):
        system, _, examples = examples.removeprefix(_SYSTEM).partition(_END)
    chat = {"user": CHATML.user, "assistant": CHATML.assistant, "system": CHATML.system, "answer": CHATML.answer}
    return {**chat, **rest, "default_system": system, "examples": examples}


def model(old: Mapping[str, Any]) -> dict[str, Any]:
    return {**old, "template": template(old["template"])}


def setup(old: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an ``engine.json`` to ``models.json``; the generator is named small, the larger model large."""
    models = {"small": model(old["generator"])} | ({"large": model(old["larger"])} if old.get("larger") else {})
    return {
        "name": old["name"],
        "task": "math",
        "reference": "small",
        "models": models,
        "verifier": old["verifier"],
    }


def policy(old: Mapping[str, Any], worth: Mapping[str, float]) -> dict[str, Any]:
    """Convert a policy. ``worth``: cost of a solution of each model, in solutions of the reference model."""
    return {
        "default": old["default"],
        "deciding": old["deciding"],
        "tolerance": old["tolerance"],
        "worth": dict(worth),
        "budget_points": old["ladder"],
        "cells": arms(old["cells"]),
    }
