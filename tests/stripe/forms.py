"""Stripe's form bodies: `a[b][c]=1&list[0]=x&list[]=y` as nested dicts and lists, checked against the parameters of an
endpoint."""

import re
import urllib.parse


class BadRequest(Exception):
    """A refusal, with Stripe's error object."""

    def __init__(self, status, message, kind="invalid_request_error", **more):
        super().__init__(message)
        self.status = status
        self.error = {"type": kind, "message": message, **more}


class Invalid(BadRequest):
    """A refusal by the parameters alone: the endpoint did not start, and no idempotency key is consumed."""

    def __init__(self, message, **more):
        super().__init__(400, message, **more)


def _put(tree, path, value):
    """Builds nested dicts; lists are made from them afterwards."""
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise Invalid("Invalid request: a parameter is both a value and a hash")
    tree[path[-1] if path[-1] else str(len(tree))] = value


def _lists(tree):
    if not isinstance(tree, dict):
        return tree
    if tree and all(name.isdigit() for name in tree):
        return [_lists(tree[name]) for name in sorted(tree, key=int)]
    return {name: _lists(value) for name, value in tree.items()}


def decoded(text):
    """Parses the parameters of a form body or a query."""
    tree = {}
    try:
        pairs = urllib.parse.parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict")
    except (ValueError, UnicodeError):
        raise Invalid("Invalid request: the form could not be read")
    for name, value in pairs:
        found = re.fullmatch(r"([^\[\]]+)((?:\[[^\[\]]*\])*)", name)
        if not found:
            raise Invalid("Invalid request: a parameter's name could not be read")
        _put(tree, [found.group(1)] + re.findall(r"\[([^\[\]]*)\]", found.group(2)), value)
    return {name: _lists(value) for name, value in tree.items()}


def _integer(name, value):
    if not isinstance(value, str) or not re.fullmatch(r"[+-]?[0-9]{1,12}", value):
        raise Invalid("Invalid integer: %s" % value, param=name, code="parameter_invalid_integer")
    return int(value)


def _boolean(name, value):
    if value not in ("true", "false"):
        raise Invalid("Invalid boolean: %s" % value, param=name)
    return value == "true"


def _text(name, value):
    if not isinstance(value, str):
        raise Invalid("Invalid string: %s" % name, param=name)
    if len(value) > 5000:
        raise Invalid("Invalid string: %s; must be at most 5000 characters" % name, param=name)
    return value


def _hash(name, value):
    if not isinstance(value, dict):
        raise Invalid("Invalid object", param=name)
    return value


def _list(name, value):
    if not isinstance(value, list):
        raise Invalid("Invalid array", param=name)
    return value


def _metadata(name, value):
    if value == "":
        return {}
    for key, text in _hash(name, value).items():
        if not isinstance(text, str) or len(key) > 40 or len(text) > 500:
            raise Invalid("Metadata values can have up to 500 characters, and keys up to 40", param=name)
    if len(value) > 50:
        raise Invalid("You can only have up to 50 keys in metadata", param=name)
    return value


READERS = {"integer": _integer, "boolean": _boolean, "text": _text, "hash": _hash, "list": _list,
           "metadata": _metadata}


def checked(params, known, required=()):
    """Checks and converts the parameters. known: name -> name of a reader, tuple of allowed words, or parameters of a
    hash."""
    out = {}
    for name, value in params.items():
        if name not in known and name != "expand":
            raise Invalid("Received unknown parameter: %s" % name, code="parameter_unknown", param=name)
        kind = known.get(name, "list")
        if isinstance(kind, dict):
            out[name] = checked(_hash(name, value), kind)
        elif isinstance(kind, tuple):
            if value not in kind:
                raise Invalid("Invalid %s: must be one of %s" % (name, ", ".join(kind)), param=name)
            out[name] = value
        else:
            out[name] = READERS[kind](name, value)
    for name in required:
        if out.get(name) in (None, ""):
            raise Invalid("Missing required param: %s." % name, code="parameter_missing", param=name)
    return out
