"""malt-data: multi-agent reasoning trees (MALT, arXiv 2412.01928) as data.

    import malt_data

    forest = malt_data.open_forest("forest")
    forest.nodes().filter(role="verifier").collect()        # polars LazyFrame in, DataFrame out
    forest.sql("SELECT role, avg(value) FROM nodes GROUP BY role")

Importing this package imports no heavy library: each noun loads what it needs when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from malt_data.builders.build import build_forest
    from malt_data.forests.forest import Forest, open_forest
    from malt_data.forests.relabel import relabel
    from malt_data.forests.verify import verify
    from malt_data.schemas.manifest import Spec

__version__ = "0.1.0"

_HOMES = {
    "Forest": "malt_data.forests.forest",
    "Spec": "malt_data.schemas.manifest",
    "build_forest": "malt_data.builders.build",
    "open_forest": "malt_data.forests.forest",
    "relabel": "malt_data.forests.relabel",
    "verify": "malt_data.forests.verify",
}

__all__ = ["Forest", "Spec", "__version__", "build_forest", "open_forest", "relabel", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'malt_data' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
