"""The forms in which people hold a data set, behind one interface."""
