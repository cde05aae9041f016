"""Outside services: where artifacts are kept. Knows nothing of machine learning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blocks.s3_store import S3Store

__all__ = ["S3Store"]


def __getattr__(name: str) -> Any:
    """Load the block when it is asked for: it needs Prefect, which takes seconds to import, and most who come here don't."""
    if name == "S3Store":
        from blocks.s3_store import S3Store

        return S3Store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
