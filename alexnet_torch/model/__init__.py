"""What the network is and computes; knows no process and no file."""
