"""How a call is done: texts, rows, connections. Private."""
