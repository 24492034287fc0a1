"""Many pairs instead of one: which, on which computers, what is done already, and the table of what was measured."""
