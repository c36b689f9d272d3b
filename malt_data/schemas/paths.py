"""Fill the turns of a pipeline into a view over paths.

SQL over paths of any length would have to recurse, which takes four times as long as the joins that
a known number of turns needs.

    >>> fill_turns("SELECT [{turns}.text] FROM nodes AS {leaf} {above}", 1)
    'SELECT [turn_1.text] FROM nodes AS turn_1 '
"""

import itertools
import re


def fill_turns(sql: str, turns: int) -> str:
    """Return `sql` with {leaf}, {first}, {above} and [{turns}.column] replaced.

    {leaf} and {first} are the nodes of the last and the first turn, {above} joins every node above
    {leaf}, and [{turns}.column] lists a column turn by turn.
    """
    names = [f"turn_{depth}" for depth in range(1, turns + 1)]
    joins = [
        f"JOIN nodes AS {above} ON {above}.question_id = {below}.question_id "
        f"AND {above}.node = {below}.parent"
        for above, below in reversed([*itertools.pairwise(names)])
    ]
    sql = sql.replace("{leaf}", names[-1]).replace("{first}", names[0])
    sql = sql.replace("{above}", "\n".join(joins))

    def listed(found: re.Match[str]) -> str:
        return f"[{', '.join(f'{name}.{found[1]}' for name in names)}]"

    return re.sub(r"\[\{turns\}\.([\w:]+)\]", listed, sql)
