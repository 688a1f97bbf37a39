"""Budget forcing: has a model think before it answers, for a limited time, where its engine continues exact prefixes.

The model first writes a thought of at most the budget. If the model has not ended the thought by then, this module
does. Then the model writes the solution after it, as if it had ended the thought itself.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from router.backends import Usage
from router.backends.specs import ModelSpec, Thinking
from router.backends.template import ChatTemplate, Template
from router.errors import InvalidFile
from router.prompt import Prompt
from strategies import Candidate

Extend = Callable[..., Awaitable[list[Candidate]]]  # as ``backends.Generator.extend``
_OWN_SEEDS = 2**40  # added to seeds of thoughts, so that thought and solution draw different random numbers


class Thinker:
    """Adds thoughts to candidates. ``write``: ``extend`` of a generator on the same engine for :func:`thoughts_of`."""

    def __init__(self, thinking: Thinking, template: Template | ChatTemplate, tokenizer: Any, write: Extend):
        self.thinking = thinking
        self.template = template
        self._write = write
        self._decode: Callable[[Sequence[int]], str] = tokenizer.decode
        self._encode: Callable[[str], tuple[int, ...]] = lambda text: tuple(
            tokenizer.encode(text, add_special_tokens=False)
        )

    async def extend(
        self,
        answer: Extend,
        prompt: Prompt,
        candidates: Sequence[Candidate],
        *,
        max_tokens: int | None,
        usage: Usage,
        seed: int,
        temperature: float | None,
        deadline: float | None,
        **options: Any,
    ) -> list[Candidate]:
        """Give each candidate a thought of its own, then extend them all with ``answer``; return its result."""
        limits = {"temperature": temperature, "deadline": deadline}
        before = usage.generated_tokens
        try:
            thought = await self._thought(prompt, candidates, usage, seed=seed, max_tokens=max_tokens, **limits)
        finally:
            spent = usage.generated_tokens - before
            usage.add(thinking_tokens=spent)
        left = None if max_tokens is None else max(0, max_tokens - spent)
        return await answer(prompt, thought, max_tokens=left, usage=usage, seed=seed, **limits, **options)

    async def _thought(
        self, prompt: Prompt, candidates: Sequence[Candidate], usage: Usage, *, seed: int, **limits: Any
    ) -> list[Candidate]:
        """Return the candidates, with a closed thought for those that had none."""
        found = list(candidates)
        new = [i for i, each in enumerate(found) if each.end is None and not each.thought]
        if not new:
            return found
        thinking = self.thinking
        told = self.template.render(prompt).rstrip().endswith(thinking.begin.strip() or "\0")
        begin = () if told else self._encode(thinking.begin)
        if not thinking.budget:
            closed = begin + self._encode(f"\n{thinking.end}\n\n")
            return [replace(each, thought=closed) if i in new else each for i, each in enumerate(found)]
        begun = [Candidate(earlier=found[i].earlier, model=found[i].model, thought=begin) for i in new]
        thoughts = await self._write(prompt, begun, steps=1, usage=usage, seed=seed + _OWN_SEEDS, **limits)
        for i, thought in zip(new, thoughts, strict=True):
            found[i] = self._closed(found[i], thought)
        return found

    def _closed(self, candidate: Candidate, thought: Candidate) -> Candidate:
        text, end = thought.text, self.thinking.end
        after = f"{self.thinking.closing}{end}\n\n"
        if thought.end is None:  # the model ended the thought itself
            after = "" if text[-1:].isspace() else "\n\n"
        return replace(
            candidate,
            reasoning=text.partition(end)[0].strip(),
            thought=thought.thought + thought.tokens + self._encode(after),
            thinking_tokens=thought.cost,
            end="cut" if thought.end == "cut" else None,
        )

    @property
    def longest(self) -> int:
        """Return the most tokens that a closed thought takes in the context."""
        texts = (self.thinking.begin, f"{self.thinking.closing}{self.thinking.end}\n\n")
        return (self.thinking.budget or 0) + sum(len(self._encode(text)) for text in texts)


def thoughts_of(spec: ModelSpec) -> ModelSpec:
    """Return the model as one whose solutions are its thoughts: a step's delimiter is the text that ends a thought.

    Raises InvalidFile where the thinking has no budget, or has settings that only the backend "openai" supports.
    """
    thinking = spec.thinking
    if thinking is None or thinking.budget is None or thinking.effort or thinking.parameter:
        raise InvalidFile(
            "thinking: in process and on vLLM, give a budget; effort and parameter are only for the backend openai"
        )
    template = replace(spec.template, delimiter=thinking.end)
    return replace(spec, template=template, max_tokens=max(1, thinking.budget), thinking=None)
