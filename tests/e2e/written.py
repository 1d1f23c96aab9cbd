"""Searches files for keys, which no file may contain."""

import base64
import hashlib
import os
import subprocess
import tempfile

from checks import check


def read(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def forms_of(key):
    """The forms in which a key could be stored. Its first 12 characters are public."""
    raw = key.encode()
    secret = key[12:]
    return [secret, raw.hex(), secret.encode().hex(), base64.b64encode(raw).decode(),
            hashlib.sha256(raw).hexdigest(), hashlib.md5(raw).hexdigest(), hashlib.sha1(raw).hexdigest()]


def found_in(forms, path):
    """The lines of the file forms that occur in the file path. grep searches megabytes for thousands within a
    second."""
    grep = subprocess.run(["grep", "-a", "-o", "-F", "-f", forms, "--", path], stdout=subprocess.PIPE,
                          env={"LC_ALL": "C", "PATH": os.environ["PATH"]})
    check(grep.returncode in (0, 1), "grep in %s: exit status %d" % (path, grep.returncode))
    return sorted(set(grep.stdout.decode().splitlines()))


def logs_of(stack):
    """Maps the name of each log to its path, if the stack is our own."""
    return {name: os.path.join(stack.logs, name) for name in os.listdir(stack.logs)} if stack.own else {}


def keys_written_down(bench, dump):
    """(place, first characters) of each key of the run that is in the dump of the database or in a log."""
    owner = {form: key[:12] for key in bench.keys for form in forms_of(key)}
    with tempfile.TemporaryDirectory(prefix="acp-e2e-") as folder:
        places = {"the database": os.path.join(folder, "dump"), "forms": os.path.join(folder, "forms")}
        for name, text in (("the database", dump), ("forms", "".join(form + "\n" for form in owner))):
            with open(places[name], "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
        forms = places.pop("forms")
        return [(place, owner[form]) for place, path in {**places, **logs_of(bench.stack)}.items()
                for form in found_in(forms, path)]
