"""The page about a run that the command `report` writes: one HTML file that needs no server and no other file."""
