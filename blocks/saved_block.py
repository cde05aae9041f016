"""Stores that Prefect keeps as blocks: `block:TYPE/NAME`."""

from typing import TYPE_CHECKING

import httpx
from prefect.blocks.core import Block, UnknownBlockType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import ValidationError

# A saved block can be loaded only where its class is known.
import blocks.s3_store  # noqa: F401
from blocks.errors import StoreConfigError, StoreUnavailable

if TYPE_CHECKING:
    from blocks.artifact_store import ArtifactStore

_NOT_YOURS = (401, 403)


def load_store(address: str) -> "ArtifactStore":
    """Load the block at `block:TYPE/NAME`; it works with and without a running event loop.

    Raises:
        StoreConfigError: there is no such block, or it is no store.
        StoreUnavailable: Prefect's API does not answer.
    """
    from blocks.artifact_store import ArtifactStore

    reference = address.removeprefix("block:")
    kind, _, name = reference.partition("/")
    if not kind or not name or "/" in name:
        raise StoreConfigError(f"Store {address!r} does not name a block; give block:TYPE/NAME, such as block:s3-store/prod.")
    block = _load(address, reference)
    if not isinstance(block, ArtifactStore):
        raise StoreConfigError(f"Block {reference!r} is no artifact store; make one of type 's3-store' and name that.")
    return block


def _load(address: str, reference: str) -> object:
    problem: StoreConfigError | StoreUnavailable
    try:
        return Block.load(reference, _sync=True)  # type: ignore[call-arg]
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        if status in _NOT_YOURS:
            problem = StoreConfigError(f"Prefect's API refuses to show block {reference!r} ({status}); check PREFECT_API_KEY.")
        else:
            problem = StoreUnavailable(f"Prefect's API answers {status}, so store {address!r} cannot be opened; try again.")
    except StoreConfigError as error:
        problem = error
    except (ObjectNotFound, UnknownBlockType, ValueError):
        problem = StoreConfigError(
            f"Block {reference!r} does not exist in Prefect or is of an unknown type; create it or set store."
        )
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        problem = _meaning(error, address, reference)
    # Outside of the handlers, so that no cause with a secret in it hangs on.
    raise problem


def _meaning(error: Exception, address: str, reference: str) -> StoreConfigError | StoreUnavailable:
    if isinstance(error.__cause__, ValidationError):
        # The message itself would show the values, secrets among them.
        fields = sorted({".".join(map(str, fault["loc"])) for fault in error.__cause__.errors(include_input=False)})
        return StoreConfigError(f"Block {reference!r} has wrong values in {fields}; edit it in Prefect.")
    return StoreUnavailable(f"Prefect's API does not answer, so store {address!r} cannot be opened; check PREFECT_API_URL.")
