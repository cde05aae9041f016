"""Errors of the outside services.

StoreError
├── StoreConfigError    the store is named or set up wrongly: never retried
├── StoreUnavailable    the store does not answer now: retried
└── ArtifactDamaged     a published artifact is gone or differs from its manifest: made again
"""


class StoreError(Exception):
    """Something is wrong with the artifact store."""


class StoreConfigError(StoreError):
    """The store's address, key or permissions are wrong; trying again cannot help."""


class StoreUnavailable(StoreError):
    """The store failed in a way that can pass."""


class ArtifactDamaged(StoreError):
    """A file of a published artifact is missing or differs from its manifest."""
