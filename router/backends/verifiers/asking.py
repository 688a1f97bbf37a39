"""Questions to a model about a prompt and its solutions."""

import re


def filled_in(template: str, **texts: str) -> str:
    """The template with each {name} replaced. What is put in is not looked at: it may have braces of its own."""
    return re.sub(r"\{(\w+)\}", lambda match: texts.get(match[1], match[0]), template)
