"""URLs as messages may show them."""

import re

_USER = re.compile(r"://[^\s'\"]*@")


def shown(url: str) -> str:
    """Return a URL without user, password and query; of a malformed one rather too little than a part of a secret."""
    scheme, sign, rest = url.rpartition("://")
    return f"{scheme.rpartition('@')[2]}{sign}{re.split('[?#]', rest.rpartition('@')[2])[0]}"


def hide_users(text: str) -> str:
    """Return `text` without the users and passwords of the URLs in it."""
    return _USER.sub("://", text)
