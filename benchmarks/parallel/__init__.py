"""Speed and traffic of a training step in several processes, and a model that predicts them."""
