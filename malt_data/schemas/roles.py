"""The roles of MALT, in the order in which they speak (*MALT* §4.1).

>>> ROLES
('generator', 'verifier', 'refiner')
"""

from typing import Literal, get_args

Role = Literal["generator", "verifier", "refiner"]
ROLES: tuple[Role, ...] = get_args(Role)
"""A node's depth is its role's index plus one."""
