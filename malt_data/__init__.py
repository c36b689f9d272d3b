"""malt-data: multi-agent reasoning trees (MALT, arXiv 2412.01928) as data.

    import malt_data

    forest = malt_data.open_forest("forest")
    forest.nodes().filter(role="verifier").collect()        # polars LazyFrame in, DataFrame out
    forest.sql("SELECT role, avg(value) FROM nodes GROUP BY role")
    malt_data.export(forest, "refiner_dpo")                 # forest/exports/refiner_dpo
    malt_data.push(forest, "me/trees")

Importing this package imports no heavy library: each name loads what it needs when it is first
used. The names are listed once, in `__init__.pyi`.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
