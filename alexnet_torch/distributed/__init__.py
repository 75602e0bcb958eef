"""How processes find each other, which part of a run each of them has, and what they exchange."""
