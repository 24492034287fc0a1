"""How far off a registration is, where, and what that means for the pair."""
