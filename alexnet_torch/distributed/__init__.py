"""How processes find each other, and what they exchange."""
