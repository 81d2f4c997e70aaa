"""The paper's networks, smaller ones in their place, and weights for them."""
