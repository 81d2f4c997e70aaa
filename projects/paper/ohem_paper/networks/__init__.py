"""The paper's networks, and smaller ones that replace them."""
