"""Has a model think before it answers, where its engine continues exact prefixes: budget forcing.

The thought is written first, up to its budget. One that the model does not close itself is closed for it. Then the
solution is written after it, as if the model had thought so by itself.
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
_OWN_SEEDS = 2**40  # a thought and its solution draw different random numbers


class Thinker:
    """``write``: ``extend`` of a generator for :func:`thoughts_of` the model, on the same engine."""

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
        """What ``answer`` makes of the candidates, each after a thought of its own."""
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
        """The candidates, with a closed thought where they had none."""
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
        if thought.end is None:  # it closed it itself
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
        """Tokens that a closed thought takes in the context, at most."""
        texts = (self.thinking.begin, f"{self.thinking.closing}{self.thinking.end}\n\n")
        return (self.thinking.budget or 0) + sum(len(self._encode(text)) for text in texts)


def thoughts_of(spec: ModelSpec) -> ModelSpec:
    """A model whose solutions are the thoughts of this one: a thought is a step that ends with its end.

    Raises InvalidFile where the thinking has no budget, which is all that exact prefixes can keep.
    """
    thinking = spec.thinking
    if thinking is None or thinking.budget is None or thinking.effort or thinking.parameter:
        raise InvalidFile(
            "thinking: in process and on vLLM it has a budget, and neither effort nor parameter, which are for the "
            "backend openai"
        )
    template = replace(spec.template, delimiter=thinking.end)
    return replace(spec, template=template, max_tokens=max(1, thinking.budget), thinking=None)
