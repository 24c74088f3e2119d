"""Says of bodies whether a schema holds, as the reference implementation for Python sees it.

Reads lines of JSON, {"schema": .., "bodies": [base64, ..]}, and answers each by a line: a list of
"valid", "invalid" and "malformed".
"""

import base64
import json
import sys

from jsonschema import Draft202012Validator


def pairs(members):
    names = [name for name, _ in members]
    if len(names) != len(set(names)):
        raise ValueError("a name stands twice")
    return dict(members)


def refuse(text):
    raise ValueError(text)


def encoded(value):
    """Fails where a string holds half of a surrogate pair."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, list):
        for element in value:
            encoded(element)
    elif isinstance(value, dict):
        for name, member in value.items():
            encoded(name)
            encoded(member)


def verdict(validator, body):
    try:
        text = base64.b64decode(body).decode("utf-8", "strict")
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=refuse)
        encoded(value)
    except (ValueError, RecursionError):
        return "malformed"
    return "valid" if validator.is_valid(value) else "invalid"


for line in sys.stdin:
    asked = json.loads(line)
    Draft202012Validator.check_schema(asked["schema"])
    validator = Draft202012Validator(asked["schema"])
    print(json.dumps([verdict(validator, body) for body in asked["bodies"]]), flush=True)
