"""The forms in which people hold a data set, behind one interface: classes, and samples that are read by index."""
