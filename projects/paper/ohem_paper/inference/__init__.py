"""The paper's extras at test time (Sec. 7): several scales (+M), iterative regression (+B)."""
