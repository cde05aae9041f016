"""Errors of the outside services.

StoreError
├── StoreConfigError    the store is named or set up wrongly: never retried
├── StoreUnavailable    the store does not answer now: retried
├── ArtifactDamaged     a published artifact is gone or differs from its manifest: made again
├── PointerChanged      another run swapped the pointer first: read it again and decide anew
└── RemoteFileChanged   a file to be read changed after it was listed: list it again

NotificationRefused     a notification cannot be sent: said in the log, the run goes on
"""


class StoreError(Exception):
    """Something is wrong with the artifact store."""


class StoreConfigError(StoreError):
    """The store's address, key or permissions are wrong; trying again cannot help."""


class StoreUnavailable(StoreError):
    """The store failed in a way that can pass."""


class ArtifactDamaged(StoreError):
    """A file of a published artifact is missing or differs from its manifest."""


class PointerChanged(StoreError):
    """A pointer is not at the version that its writer expected."""


class RemoteFileChanged(StoreError):
    """A remote file was changed or removed between its listing and its download."""


class NotificationRefused(Exception):
    """A notification block is missing, or its service did not take the text."""
