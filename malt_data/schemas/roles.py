"""The roles of MALT, in the order of their turns (*MALT* §4.1).

>>> ROLES
('generator', 'verifier', 'refiner')
"""

from typing import Literal, get_args

Role = Literal["generator", "verifier", "refiner"]
ROLES: tuple[Role, ...] = get_args(Role)
"""The depth of a node is the index of its role plus one."""
