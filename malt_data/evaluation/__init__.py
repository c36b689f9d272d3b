"""Does the team reason better? Settings, passes, votes, results as data (MALT §4.1, §5)."""
