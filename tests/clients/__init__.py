"""Tools that others wrote, used on the network as their documentation shows; `make test-clients` runs them."""
