"""Questions to a model about a prompt and its solutions."""

import re


def filled_in(template: str, **texts: str) -> str:
    """Return the template with each {name} replaced by its text. Braces in the texts stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: texts.get(match[1], match[0]), template)
