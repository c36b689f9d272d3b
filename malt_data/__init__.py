"""malt-data: multi-agent reasoning trees (MALT, arXiv 2412.01928) as data.

    import malt_data

    forest = malt_data.open_forest("forest")
    forest.nodes().filter(role="verifier").collect()        # polars LazyFrame in, DataFrame out
    forest.sql("SELECT role, avg(value) FROM nodes GROUP BY role")
    forest.export("refiner", "dpo")                         # datasets.DatasetDict
    malt_data.push(forest, "me/trees")

Importing this package imports no heavy library: each noun loads what it needs when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from malt_data.builders.build import build_forest
    from malt_data.evaluation.results import Results, open_results
    from malt_data.exporters.export import export
    from malt_data.exporters.selection import Selection
    from malt_data.forests.forest import Forest, open_forest
    from malt_data.forests.relabel import relabel
    from malt_data.forests.verify import verify
    from malt_data.publish.push import pull, push
    from malt_data.schemas.exports import config_named
    from malt_data.schemas.manifest import Spec

__version__ = "0.1.0"

_HOMES = {
    "Forest": "malt_data.forests.forest",
    "Results": "malt_data.evaluation.results",
    "Selection": "malt_data.exporters.selection",
    "Spec": "malt_data.schemas.manifest",
    "build_forest": "malt_data.builders.build",
    "config_named": "malt_data.schemas.exports",
    "export": "malt_data.exporters.export",
    "open_forest": "malt_data.forests.forest",
    "open_results": "malt_data.evaluation.results",
    "pull": "malt_data.publish.push",
    "push": "malt_data.publish.push",
    "relabel": "malt_data.forests.relabel",
    "verify": "malt_data.forests.verify",
}

__all__ = [
    "Forest",
    "Results",
    "Selection",
    "Spec",
    "__version__",
    "build_forest",
    "config_named",
    "export",
    "open_forest",
    "open_results",
    "pull",
    "push",
    "relabel",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'malt_data' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
