"""The report of one registration: a page and its pictures."""
