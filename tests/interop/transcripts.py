"""Transcripts in Markdown: commands, what they print, and whether two outputs mean the same."""

import json
import re
from dataclasses import dataclass

from json_documents import documents


@dataclass
class Step:
    """One command, and what it is said to print."""

    command: str
    printed: str


def steps(markdown: str) -> list[Step]:
    """The steps of every block of ```console, in order."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", markdown, re.DOTALL | re.MULTILINE):
        assert block.startswith("$ "), block
        lines = iter(block.splitlines())
        for line in lines:
            if not line.startswith("$ "):
                found[-1].printed += line + "\n"
                continue
            command = line.removeprefix("$ ")
            while command.endswith("\\"):
                command += "\n" + next(lines)
            found.append(Step(command, ""))
    return found


# What differs from run to run.
VARYING = [
    (r"^[0-9a-f]{32}$", "ID"),
    (r"^[0-9]+(\.[0-9]+)?s$", "DURATION"),
    (r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$", "TIME"),
]


def _settled(value, said):
    """The value with what varies replaced; a text that is said to be "…" may be anything."""
    if said == "…" and isinstance(value, str) and value:
        return said
    if isinstance(value, dict):
        of = said if isinstance(said, dict) else {}
        # As pairs, so that the order of keys counts.
        return [(key, _settled(inner, of.get(key))) for key, inner in value.items()]
    if isinstance(value, list):
        of = said if isinstance(said, list) else []
        return [_settled(inner, of[at] if at < len(of) else None) for at, inner in enumerate(value)]
    if isinstance(value, str):
        for pattern, name in VARYING:
            value = re.sub(pattern, name, value)
    return value


def _head_and_body(text: str):
    """The lines of an HTTP head, if there is one, and the rest."""
    text = text.replace("\r\n", "\n")
    if not text.startswith("HTTP/"):
        return [], text
    head, _, body = text.partition("\n\n")
    lines = []
    for line in head.splitlines():
        name, colon, value = line.partition(": ")
        if name in ("date", "content-length") or re.fullmatch(r"[0-9a-f]{32}", value):
            value = "VARIES"
        lines.append(name + colon + value)
    return lines, body


def _documents(text: str):
    try:
        return documents(text)
    except json.JSONDecodeError:
        return [text.strip()]


def compare(printed: str, said: str):
    """Fails where what was printed does not mean what was said."""
    (head, body), (head_said, body_said) = _head_and_body(printed), _head_and_body(said)
    assert head == head_said
    found, wanted = _documents(body), _documents(body_said)
    assert _settled(found, wanted) == _settled(wanted, wanted), body
