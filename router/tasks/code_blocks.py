"""Finds Python code as models write it: with or without fences, in several blocks, among drafts and examples."""

import ast
import builtins
import re
import symtable
import textwrap
import warnings
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from router.tasks.python_code import UNREADABLE, parsed

_FENCE = re.compile(r"(?P<indent>[ \t>]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<label>[^`\n]*)")
_PYTHON = {"python", "python3", "py", "py3", "python2", "ipython", "sage"}
_STARTS = re.compile(
    r"(?:from\s+[\w.]+\s+import\b|import\s+\w|def\s+\w+\s*\(|async\s+def\s|class\s+\w+\s*[:(]|@\w|\w+\s*=[^=])"
)
_DEFINES = re.compile(r"^(?:async[ \t]+def|def|class)[ \t]+(\w+)", re.M)
_LABEL = re.compile(r"\s*(?:python3?|py)[ \t]*\n", re.I)
_MOST_CHARACTERS = 100_000


@dataclass(frozen=True)
class Block:
    """One piece of code.

    makes      names that it defines, imports or assigns at module level
    functions  those of them that are functions or classes
    needs      names that it reads but neither makes nor finds among builtins
    broken     whether it does not parse
    """

    text: str
    makes: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    broken: bool = False


def find(text: str, wanted: Collection[str] = ()) -> str | None:
    """Return the code that a solution ends with; None where there is none.

    This is the last block that defines a wanted name, or else any function or class; it comes with the blocks that
    define what it needs, and without asserts between functions. A block that was cut counts only if it parses; a
    complete one counts also if it doesn't.
    """
    text = text.replace("\r\n", "\n").rpartition("</think>")[2]
    if "<think>" in text or len(text) > _MOST_CHARACTERS:
        return None  # cut while it was thinking, or too long to be a function
    for blocks in (list(_fenced(text)), list(_bare(_outside(text)))):
        latest = {name: i for i, block in enumerate(blocks) for name in block.functions}
        if places := {latest[name] for name in wanted if name in latest}:
            return _joined(blocks, places)
        if latest:
            last = max(latest.values())
            # The helpers may come after the function that needs them.
            users = {i for i in range(last) if blocks[i].functions and blocks[i].needs & blocks[last].functions}
            return _joined(blocks, {last, *users})
    return None


def _joined(blocks: Sequence[Block], places: set[int]) -> str:
    """Join these blocks with those that make what they need: the latest one before their last, else the first after."""
    makers: dict[str, list[int]] = {}
    for i, block in enumerate(blocks):
        for name in () if block.broken else block.makes:
            makers.setdefault(name, []).append(i)
    places, last = set(places), max(places)
    made = {name for i in places for name in blocks[i].makes}
    todo = [*places]
    while todo:
        for name in blocks[todo.pop()].needs - made:
            if makes := makers.get(name):
                place = makes[max(0, bisect_left(makes, last) - 1)]
                made |= blocks[place].makes
                if place not in places:
                    places.add(place)
                    todo.append(place)
    return _without_tests("\n\n".join(blocks[i].text.strip("\n") for i in sorted(places)))


def _without_tests(code: str) -> str:
    """Remove the asserts outside of functions: these are the model's own tests, which may be wrong."""
    try:
        body = parsed(code).body
    except UNREADABLE:
        return code + "\n"
    tests = [node for node in body if isinstance(node, ast.Assert)]
    others = {number for node in body if node not in tests for number in (node.lineno, node.end_lineno)}
    lines = code.split("\n")
    for node in reversed(tests):
        if not others & {node.lineno, node.end_lineno}:  # shares no line with code that stays
            del lines[node.lineno - 1 : node.end_lineno]
    return "\n".join(lines).strip("\n") + "\n"


def _fenced(text: str) -> Iterator[Block]:
    lines = iter(text.split("\n"))
    for line in lines:
        opened = _FENCE.fullmatch(line)
        if not opened:
            continue
        body, closed = [], False
        for inner in lines:
            end = _FENCE.fullmatch(inner)
            if end and not end["label"] and end["fence"].startswith(opened["fence"]):
                closed = True
                break
            body.append(inner.removeprefix(opened["indent"]))
        words = re.findall(r"\w+", opened["label"].lower())
        if words and words[0] not in _PYTHON:
            continue
        block = _block("\n".join(body))
        # Prose, output, interpreter sessions and cut code don't parse either.
        if not block.broken or (words and closed and block.functions):
            yield block
        elif not closed:
            yield from _bare("\n".join(body))  # perhaps prose follows it


def _outside(text: str) -> str:
    """Return the text outside of fences."""
    fence, outside = "", []
    for line in text.split("\n"):
        match = _FENCE.fullmatch(line)
        if match and not fence:
            fence = match["fence"]
        elif match and not match["label"] and match["fence"].startswith(fence):
            fence = ""
        elif not fence:
            outside.append(line)
    return "\n".join(outside)


def _bare(text: str) -> Iterator[Block]:
    """Yield code without fences: the whole text if it parses, else runs of lines that begin like code."""
    text = text.removeprefix(label[0] if (label := _LABEL.match(text)) else "")
    whole = _block(text)
    if whole.functions and not whole.broken:
        yield whole
        return
    lines = text.split("\n")
    start = 0
    while start < len(lines):
        end = start + 1
        if _STARTS.match(lines[start]):
            while end < len(lines) and (
                not lines[end].strip() or lines[end][0] in " \t)]}#" or _STARTS.match(lines[end])
            ):
                end += 1
            block = _block("\n".join(lines[start:end]))
            if not block.broken:
                yield block
        start = end


def _block(text: str) -> Block:
    text = textwrap.dedent(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes
            table = symtable.symtable(text, "<solution>", "exec")
        tree, read = parsed(text), set(_global_names(table))
    except UNREADABLE:
        return Block(text, functions=frozenset(_DEFINES.findall(text)), broken=True)
    functions = {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            functions |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    makes = {each.get_name() for each in table.get_symbols() if each.is_assigned() or each.is_imported()}
    needs = {name for name in read if name not in makes and not hasattr(builtins, name)}
    return Block(text, frozenset(makes), frozenset(functions), frozenset(needs))


def _global_names(table: symtable.SymbolTable) -> Iterator[str]:
    """Yield the names that any scope reads as globals."""
    outermost = table.get_type() == "module"
    for each in table.get_symbols():
        if each.is_referenced() and (outermost or each.is_global()):
            yield each.get_name()
    for child in table.get_children():
        yield from _global_names(child)
