"""What tools print of a stream: JSON documents, one after the other, with line breaks anywhere."""

import json


def documents(text: str) -> list:
    """Reads all of them."""
    decoder, rest, found = json.JSONDecoder(), text.strip(), []
    while rest:
        document, end = decoder.raw_decode(rest)
        found.append(document)
        rest = rest[end:].lstrip()
    return found
