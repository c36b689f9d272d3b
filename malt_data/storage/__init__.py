"""What keeps data: files that appear whole, parts, SQL that cannot leave, the Hub."""
