"""Trainings that answer a question: ablations, Figure 1, initial weights, and killed runs that resume."""
