"""Ridge regression on operators, by Krylov methods."""
