"""What a trained network does: evaluate, predict, features, figures."""
