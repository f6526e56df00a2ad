"""How sources write rows, a file each: from a record or its messages to turns. Imports turns, values."""
